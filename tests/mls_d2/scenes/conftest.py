"""A tiny root of scenes in all three layouts, and the pictures in it."""

from pathlib import Path

import pytest

from mls_d2.scenes import SceneParams, generate
from mls_d2.scenes.generate import picture_of
from mls_d2.scenes.layouts import all_splits
from mls_d2.scenes.render import Picture

TINY = {"train": 5, "val": 2, "unlabeled": 2, "voc": 4, "cityscapes": 4, "size": (96, 64)}


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    root = tmp_path_factory.mktemp("tiny") / "root"
    generate(root, seed=3, num_workers=1, **TINY)
    return root


@pytest.fixture(scope="session")
def pictures() -> dict[str, list[Picture]]:
    """The pictures of the tiny root, per split."""
    return {
        split.name: [picture_of(3, split, index) for index in range(split.count)]
        for split in all_splits(SceneParams(seed=3, **TINY))
    }
