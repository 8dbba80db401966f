"""The documentation keeps up with the code."""

import contextlib
import functools
import io
import os
import re
import runpy
import sys
from pathlib import Path
from pkgutil import resolve_name
from unittest import mock

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

import pretrain.methods  # noqa: F401 - registers the options
from mls_d2.commands import COMMANDS
from mls_d2.config.changes import flatten
from mls_d2.config.defaults import get_cfg
from mls_d2.config.options import OPTIONS, options_table
from mls_d2.convert.sources import published_table, sources_table
from tests.conftest import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
MAKEFILE = (REPOSITORY / "Makefile").read_text()
FILES = [
    path.relative_to(REPOSITORY).as_posix()
    for folder in ("mls_d2", "pretrain", "tools", "transfer_configs", "suites", "tests")
    for path in (REPOSITORY / folder).rglob("*")
] + [f"benchmarks/{path.name}" for path in REPOSITORY.glob("benchmarks/*")]
# Files that a user or a run writes.
OTHER_FILES = r"parts\.py|mine\.yaml|suite\.yaml|(output/.*)?config\.yaml"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def code(page: Path) -> str:
    """The page's blocks of code, and its spans of code, each on one line."""
    text = page.read_text().replace("\\\n", " ")
    block = r"(?s)```\w*\n(.*?)```"
    spans = re.findall(r"`([^`]+)`", re.sub(block, "", text))
    return "\n".join([*re.findall(block, text), *(span.replace("\n", " ") for span in spans)])


def alternatives(path: str) -> list[str]:
    """``a/{b,c}.yaml`` stands for two paths."""
    match = re.search(r"\{([\w,]+)\}", path)
    if not match:
        return [path]
    found = [path.replace(match[0], item, 1) for item in match[1].split(",")]
    return [item for one in found for item in alternatives(one)]


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


def test_the_site_has_every_config_key_once_and_every_page():
    site = runpy.run_path(str(REPOSITORY / "docs/site.py"))
    declared = {key.name for options in OPTIONS.values() for key in options.config_keys()}
    added = flatten(get_cfg()).keys() - flatten(get_detectron2_cfg()).keys()
    rows = re.findall(r"(?m)^\| `([\w.]+)` \| +`(.*?)` \| (.*?) \| (.*?) \|$", site["keys_page"]())
    ours = {key: (meaning, allowed) for key, _, meaning, allowed in rows}
    assert ours.keys() == added - declared
    assert ours["PRETRAIN.AUGMENT.LOCAL_SIZE"][0].startswith("Multi-crop: number of small views")
    assert ours["PRETRAIN.AUGMENT.CROP_SIZE"] == (
        "Side of the square crops, in pixels.",
        ">= 32 pixels",
    )
    assert all(meaning for meaning, _ in ours.values())
    nav = (REPOSITORY / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {
        path.relative_to(REPOSITORY / "docs").as_posix() for path in PAGES if "docs" in path.parts
    }
    made = {*site["ROOT_PAGES"], "first-steps.md", "keys.md"}
    made |= {f"api/{name}.md" for name in site["API"]}
    assert sorted(re.findall(r": (\S+\.md)$", nav, re.M)) == sorted(pages | made)


def test_the_tables_of_checkpoints_are_those_of_the_code():
    text = (REPOSITORY / "docs/checkpoints.md").read_text()
    for table in (sources_table(), published_table()):
        assert table in text, "replace it by what tools/convert.py --list-sources prints"


@each_page
def test_links_lead_somewhere(page):
    for link, _, part in re.findall(r"\]\(([^)#:]*)(#([^)]*))?\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        if part:
            titles = re.findall(r"(?m)^#+ (.*)$", target.read_text())
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert part in anchors, f"{link}#{part}"


@functools.cache
def names_in_code() -> set[str]:
    """The parts of config keys, and every word of the sources, such as environment variables."""
    text = MAKEFILE + "".join(
        (REPOSITORY / name).read_text() for name in FILES if name.endswith(".py")
    )
    return {*".".join(flatten(get_cfg())).split("."), *re.findall(r"\w+", text)}


@each_page
def test_keys_and_variables_exist(page):
    keys = flatten(get_cfg())
    known = {".".join(key.split(".")[:depth]) for key in keys for depth in range(1, 9)}
    text = re.sub(r"```python.*?```|```yaml.*?```|TOY\S+", "", page.read_text(), flags=re.S)
    for key in re.findall(r"(?<![\w.])[A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)+\b", text):
        assert key in known or any(name.endswith(f".{key}") for name in known), key
    for name in re.findall(r"(?<![\w.{])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![\w.])", code(page)):
        assert name in names_in_code() or name.startswith(("TORCH_", "SBATCH_", "SLURM_")), name


@each_page
def test_files_exist(page):
    for word in re.findall(r"(?<![\w…>])[\w/{},.-]+\.(?:py|yaml)\b", code(page)):
        for path in alternatives(word):
            pattern = re.compile(f"(.*/)?{re.escape(path)}".replace("NAME", r"\w+"))
            written = re.fullmatch(OTHER_FILES, path)
            assert written or any(map(pattern.fullmatch, FILES)), path


@each_page
def test_targets_and_variables_of_make_exist(page):
    targets = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.M))
    variables = set(re.findall(r"\$[({](\w+)|^(\w+) \?=", MAKEFILE, re.M))
    variables = {name for pair in variables for name in pair}
    for command in re.findall(r"(?m)^make .*$", code(page)):
        command = command.split("#")[0]
        target = re.match(r"make ([a-z0-9-]+)", command)
        assert target is None or target[1] in targets or target[1] == "eval-", command
        assert set(re.findall(r" ([A-Z_]+)=", command)) <= variables, command


@functools.cache
def options_of(tool: str, *command: str) -> set[str]:
    """The options in the usage of a tool or benchmark, and of its commands."""
    text = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [tool, *command, "--help"]),
        mock.patch.object(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path]),
        contextlib.redirect_stdout(text),
        pytest.raises(SystemExit),
    ):
        runpy.run_path(str(REPOSITORY / tool), run_name="tool")["main"]()
    usage = text.getvalue().partition("\n\n")[0]
    commands = re.search(r" \{([a-z,]+)\} \.\.\.", usage)
    of_commands = [options_of(tool, name) for name in commands[1].split(",")] if commands else []
    return set(re.findall(r"--[a-z][\w-]+", usage)).union(*of_commands)


@each_page
def test_options_of_tools_exist(page):
    text = code(page)
    for tool, command in re.findall(r"((?:tools|benchmarks)/\w+\.py)([^#\n]*)", text):
        named = set(re.findall(r" (--[a-z][\w-]+)", command))
        assert not named or named <= options_of(tool), tool
    tools = [name for name in FILES if re.fullmatch(r"tools/[a-z]\w+\.py", name)]
    for option in re.findall(r"(?m)^(--[a-z][\w-]+)", text):
        assert any(option in options_of(tool) for tool in tools), option


def test_tools_and_commands_can_be_typed_as_the_pages_have_them():
    for path in REPOSITORY.glob("tools/[!_]*.py"):
        assert path.read_text().startswith("#!/usr/bin/env python3\n"), path
        assert os.access(path, os.X_OK), path
    readme = (REPOSITORY / "README.md").read_text()
    assert {*re.findall(r"`(mls-[a-z0-9-]+)[` ]", readme)} == {*COMMANDS}


@each_page
def test_python_names_exist(page):
    for name in re.findall(r"(?<![\w/])(?:mls_d2|pretrain)(?:\.[A-Za-z_]\w*)+", code(page)):
        resolve_name(name)
    for block in re.findall(r"(?s)```python\n(.*?)```", page.read_text()):
        for statement in re.findall(r"(?m)^from (?:mls_d2|pretrain).*$", block):
            exec(statement, {})


def test_the_example_of_the_readme_runs():
    (block,) = re.findall(r"(?s)```python\n(.*?)```", (REPOSITORY / "README.md").read_text())
    g1, z1, z2 = torch.rand(2, 6), torch.rand(2, 4), torch.rand(2, 4)
    names = {"g1": g1, "z1": z1, "z2": z2}
    names |= {"dictionary_g": torch.rand(32, 6), "dictionary_z": torch.rand(32, 4)}
    exec(block, names)
    assert names["labels"].sum(dim=1).tolist() == [20, 20]
    assert names["loss"].ndim == 0
