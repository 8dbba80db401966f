"""The documentation keeps up with the code."""

import re
from pathlib import Path

from detectron2.config import CfgNode

from mls_d2.config.defaults import get_cfg
from mls_d2.convert.sources import published_table, sources_table

REPOSITORY = Path(__file__).resolve().parent.parent


def leaves(node: CfgNode, prefix: str) -> list[str]:
    found = []
    for name, value in node.items():
        key = f"{prefix}.{name}"
        found += leaves(value, key) if isinstance(value, CfgNode) else [key]
    return found


def test_every_option_of_pretraining_is_documented():
    text = (REPOSITORY / "docs/pretraining.md").read_text()
    names = set(re.findall(r"[A-Z][A-Z_.]+[A-Z]", text))
    cfg = get_cfg()
    groups = ("MOCO", "MLS", "DENSECL", "REVISITING", "BYOL", "SIMCLR", "SIMSIAM", "BARLOWTWINS")
    for node in ("PRETRAIN", *groups):
        for key in leaves(cfg[node], node):
            assert key in names or "." + key.split(".")[-1] in text, key


def test_the_tables_of_checkpoints_are_those_of_the_code():
    text = (REPOSITORY / "docs/checkpoints.md").read_text()
    for table in (sources_table(), published_table()):
        assert table in text, "replace it by what tools/convert.py --list-sources prints"


def test_links_lead_somewhere():
    for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
