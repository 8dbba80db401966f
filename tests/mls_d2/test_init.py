"""Without Detectron2 the package says what to do."""

import runpy
import sys

import pytest

from mls_d2.config import defaults


def test_a_missing_detectron2_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2.config", None)
    with pytest.raises(ImportError, match="needs Detectron2.*`make setup`"):
        runpy.run_path(defaults.__file__)
