"""Without Detectron2 the package says what to do."""

import importlib.util
import runpy

import pytest

import mls_d2


def test_a_missing_detectron2_is_explained(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs Detectron2.*`make setup`"):
        runpy.run_path(mls_d2.__file__)
