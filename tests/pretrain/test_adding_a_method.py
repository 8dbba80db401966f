"""docs/adding-a-method.md: its VICReg is the real one, and its toy is trained and exported."""

import re
import sys
import types

import numpy as np
import pytest
import torch

from mls_d2.checkpoint.backbone_file import read_backbone
from mls_d2.config.defaults import get_cfg
from mls_d2.config.loading import load_cfg
from mls_d2.config.options import OPTIONS
from pretrain.methods import METHODS
from pretrain.methods.base import Method
from pretrain.run import pretrain
from tests.pretrain.conftest import write_images

SEEN = []


class Corner:
    """An extra of the loader: position and upper left corner of the third view."""

    def __call__(self, position, size, crops, rng) -> np.ndarray:
        return np.array([position, crops[2].x, crops[2].y], np.float32)


@pytest.fixture
def blocks(request) -> list[str]:
    """The page's blocks: of vicreg.py, its config, the toy."""
    text = (request.config.rootpath / "docs/adding-a-method.md").read_text(encoding="utf-8")
    return re.findall(r"```(?:python|yaml)\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def toy(blocks, monkeypatch) -> type[Method]:
    """The page's method, registered; it notes its batches and brings an extra."""
    monkeypatch.setattr(METHODS, "_obj_map", dict(METHODS._obj_map))
    module = types.ModuleType("pretrain.methods.toy")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(blocks[-1], "docs/adding-a-method.md", "exec"), module.__dict__)
    method, forward = module.Toy, module.Toy.forward

    def noted(self, batch):
        SEEN.append((batch, self.encoder.backbone.stem.conv1.weight.detach().clone()))
        return forward(self, batch)

    monkeypatch.setattr(method, "forward", noted)
    monkeypatch.setattr(method, "loader_extras", classmethod(lambda cls, cfg: {"corner": Corner()}))
    SEEN.clear()
    yield method
    del OPTIONS["toy"]


def test_vicreg_is_the_real_file_in_order(blocks, request):
    folder = request.config.rootpath / "pretrain"
    *code, config, _ = blocks
    real = [line for line in (folder / "methods/vicreg.py").read_text().splitlines() if line]
    assert [line for block in code for line in block.splitlines() if line] == real
    assert config == (folder / "configs/vicreg_quick.yaml").read_text()


def test_the_toy_trains_and_is_exported(toy, tiny, tmp_path, request, refuses):
    folder = write_images(tmp_path / "images", [f"{index}.png" for index in range(8)], (60, 80))
    base = request.config.rootpath / "pretrain/configs/mocov2_quick.yaml"
    config = tmp_path / "toy_quick.yaml"
    config.write_text(f"_BASE_: {base}\nTOY:\n  WEIGHT: 0.5\nPRETRAIN:\n  METHOD: toy\n")
    changes = tiny | {"DATASETS.TRAIN": f"('{folder}',)", "OUTPUT_DIR": str(tmp_path / "run")}
    del changes["PRETRAIN.METHOD"]
    words = [word for pair in changes.items() for word in pair]
    words += ["PRETRAIN.WARMUP_EPOCHS", "0", "PRETRAIN.BATCH_NORM", "sync"]
    words += ["PRETRAIN.OPTIMIZER", "sgd", "SOLVER.BASE_LR", "0.06"]
    assert get_cfg().TOY.WEIGHT == 1.0
    cfg = load_cfg(str(config), words)
    assert read_backbone(pretrain(cfg)).info["method"] == "toy"

    first = SEEN[0][1]
    for step, (batch, weight) in enumerate(SEEN):
        assert [view.shape[2] for view in batch.views] == [32, 32, 16]
        assert (batch.epoch, batch.progress) == (step / 2, step / 4)
        assert batch.image_sizes.tolist() == [[60, 80]] * 4
        x, y, width, height = batch.rectangles.unbind(dim=-1)
        assert ((x >= 0) & (y >= 0) & (x + width <= 80) & (y + height <= 60)).all()
        corners = torch.stack([batch.index.float(), x[2], y[2]], dim=1)
        torch.testing.assert_close(batch.extras["corner"], corners)
        # Its gradients are dropped in the first two of four steps.
        assert torch.equal(weight, first) == (step <= 2)
    assert len(SEEN) == 4

    cfg.TOY.WEIGHT = 0.0
    with refuses("bad-value", "TOY.WEIGHT must be > 0, got 0.0"):
        pretrain(cfg)
