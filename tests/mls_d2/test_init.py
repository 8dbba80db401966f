"""Without Detectron2, and on Windows, the package says what to do."""

import runpy
import sys

import pytest

import mls_d2
from mls_d2.config import defaults


def test_a_missing_detectron2_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2.config", None)
    with pytest.raises(ImportError, match="needs Detectron2.*`make setup`"):
        runpy.run_path(defaults.__file__)


def test_windows_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(mls_d2.__file__)
    assert caught.value.code == 2
    assert "use WSL" in capsys.readouterr().err
    monkeypatch.setattr(sys, "platform", "linux")
    assert runpy.run_path(mls_d2.__file__)["__version__"] == mls_d2.__version__
