"""The documentation keeps up with the code."""

import os
import re
from pathlib import Path

from detectron2.config import CfgNode

import pretrain.methods  # noqa: F401 - registers the options
from mls_d2.config.changes import flatten
from mls_d2.config.defaults import get_cfg
from mls_d2.config.options import options_table
from mls_d2.convert.sources import published_table, sources_table

REPOSITORY = Path(__file__).resolve().parent.parent


def test_every_option_of_pretraining_is_documented():
    """After a change of a method's options: MLS_D2_RECORD=1 pytest tests/test_docs.py."""
    page = REPOSITORY / "docs/pretraining.md"
    text = page.read_text()
    begin, end = "<!-- options:begin -->\n", "<!-- options:end -->"
    before, _, rest = text.partition(begin)
    table, _, after = rest.partition(end)
    if os.environ.get("MLS_D2_RECORD"):
        page.write_text(f"{before}{begin}{options_table()}\n{end}{after}")
        return
    assert table.strip() == options_table()
    names = set(re.findall(r"[A-Z][A-Z_0-9.]+[A-Z]", text))
    for key in flatten(CfgNode({"PRETRAIN": get_cfg().PRETRAIN})):
        assert key in names or f".{key.split('.')[-1]}" in text, key


def test_the_tables_of_checkpoints_are_those_of_the_code():
    text = (REPOSITORY / "docs/checkpoints.md").read_text()
    for table in (sources_table(), published_table()):
        assert table in text, "replace it by what tools/convert.py --list-sources prints"


def test_links_lead_somewhere():
    pages = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
    for page in sorted(pages):
        for link in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
