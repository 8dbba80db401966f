"""The tools in this process, which has torch imported already."""

import importlib
import sys
from types import SimpleNamespace

import pytest

from mls_d2.core.errors import exit_code_of


@pytest.fixture
def load_tool(monkeypatch):
    """Return a function that imports a tool; what that does to the path is undone."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    return lambda name: importlib.import_module(f"tools.{name}")


@pytest.fixture
def run_tool(load_tool, monkeypatch, capfd):
    """Return a function that runs a tool's command line: exit code, stdout and stderr."""

    def run(name: str, *words: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", [f"tools/{name}.py", *map(str, words)])
        code = exit_code_of(load_tool(name).main)
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run
