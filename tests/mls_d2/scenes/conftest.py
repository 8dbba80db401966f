"""A tiny root of scenes in all three layouts, and its parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from mls_d2.scenes import SceneParams, generate

TINY = {"train": 5, "val": 2, "unlabeled": 2, "voc": 4, "cityscapes": 6, "size": (96, 64)}


@pytest.fixture(scope="session")
def tiny_params() -> SceneParams:
    return SceneParams(seed=3, **TINY)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    root = tmp_path_factory.mktemp("tiny") / "root"
    generate(root, seed=3, num_workers=1, **TINY)
    return root
