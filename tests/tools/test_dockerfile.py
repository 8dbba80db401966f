"""The Dockerfile and the devcontainer, not built here: files exist, Python is the tested one."""

import json
import re

from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "tools/Dockerfile").read_text()


def test_files_that_are_copied_exist():
    copied = [word for line in re.findall(r"(?m)^COPY (.*) \S+$", TEXT) for word in line.split()]
    assert {"constraints.txt", "tools/provide_detectron2.py"} <= set(copied)
    assert [name for name in copied if not (REPOSITORY / name).exists()] == []


def test_what_setup_depends_on_is_there_before_it_runs():
    before = TEXT.partition("make setup")[0]
    inputs = re.search(r"(?m)^SETUP_FROM := (.*)$", (REPOSITORY / "Makefile").read_text())
    assert inputs
    assert [name for name in inputs[1].split() if name not in before] == []
    # pyproject.toml reads the version and the readme.
    assert {"mls_d2/__init__.py", "README.md", "LICENSE"} <= set(before.split())


def test_the_python_is_that_of_the_constraints():
    tested = re.search(r"\(Python (\d+\.\d+)\)", (REPOSITORY / "constraints.txt").read_text())
    assert tested
    assert f"FROM python:{tested[1]}-slim" in TEXT
    container = json.loads((REPOSITORY / ".devcontainer/devcontainer.json").read_text())
    assert container["image"] == f"python:{tested[1]}"
    assert container["postCreateCommand"] == "make setup"
