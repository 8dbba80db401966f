"""A method of a test: rectangles, three views, an extra of the loader, and gradients changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mls_d2.checkpoint.backbone_file import read_backbone
from mls_d2.config.defaults import get_cfg
from mls_d2.config.loading import load_cfg
from mls_d2.config.options import OPTIONS, Options, option
from mls_d2.config.rules import above
from pretrain.batch import Batch, StepOutput
from pretrain.encoder import Encoder
from pretrain.methods import METHODS
from pretrain.methods.base import Method
from pretrain.run import pretrain
from pretrain.views import Crops, ViewGroup

SEEN: list[Batch] = []


class Corner:
    """An extra of the loader: position and upper left corner of the third view."""

    def __call__(self, position, size, crops, rng) -> np.ndarray:
        return np.array([position, crops[2].x, crops[2].y], np.float32)


class Overlap(Method):
    """Predicts from its embedding where a view lies; of no use but as a test."""

    @dataclass(frozen=True, kw_only=True)
    class Options(Options):
        group = "OVERLAP"
        weight: float = option(1.0, "weight of the loss", above(0))

    def __init__(self, backbone: nn.Module, feature_dim: int, options: Overlap.Options) -> None:
        super().__init__(backbone, feature_dim, options)
        self.encoder = Encoder(backbone, nn.Linear(feature_dim, 4))
        self.weight = options.weight
        self.register_buffer("calls", torch.zeros(3))

    @classmethod
    def crops(cls, cfg) -> Crops:
        return Crops([ViewGroup(2, 32, (0.2, 1.0)), ViewGroup(1, 48, (0.5, 1.0))], 0.5)

    @classmethod
    def loader_extras(cls, cfg):
        return {"corner": Corner()}

    def before_step(self, iteration: int) -> None:
        self.calls[0] = iteration

    def forward(self, batch: Batch) -> StepOutput:
        SEEN.append(batch)
        height, width = batch.image_sizes.unbind(dim=1)
        scale = torch.stack([width, height, width, height], dim=1)
        losses = [
            (self.encoder(view)[1] - box / scale).square().mean()
            for view, box in zip(batch.views, batch.rectangles, strict=True)
        ]
        return StepOutput({"loss_place": sum(losses)}, weights={"loss_place": self.weight})

    def before_optimizer_step(self) -> None:
        assert self.encoder.projector.weight.grad.abs().sum() > 0
        self.encoder.projector.weight.grad = None
        self.calls[1] += 1

    def after_optimizer_step(self) -> None:
        self.calls[2] += 1


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(METHODS, "_obj_map", dict(METHODS._obj_map))
    monkeypatch.setattr("mls_d2.config.options.OPTIONS", OPTIONS)
    METHODS.register("overlap")(Overlap)
    SEEN.clear()
    yield
    del OPTIONS["overlap"]


def test_it_needs_one_file_and_a_config(registered, tiny, tmp_path, request, refuses):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    base = request.config.rootpath / "pretrain/configs/mocov2_quick.yaml"
    config = tmp_path / "overlap_quick.yaml"
    config.write_text(f"_BASE_: {base}\nOVERLAP:\n  WEIGHT: 0.5\nPRETRAIN:\n  METHOD: overlap\n")
    changes = tiny | {"DATASETS.TRAIN": f"('{folder}',)", "OUTPUT_DIR": str(tmp_path / "run")}
    del changes["PRETRAIN.METHOD"]
    words = [word for pair in changes.items() for word in pair]
    words += ["PRETRAIN.WARMUP_EPOCHS", "0", "PRETRAIN.BATCH_NORM", "sync"]
    assert get_cfg().OVERLAP.WEIGHT == 1.0
    cfg = load_cfg(str(config), words)
    assert read_backbone(pretrain(cfg)).info["method"] == "overlap"
    assert len(SEEN) == 4
    for step, batch in enumerate(SEEN):
        assert [tuple(view.shape) for view in batch.views] == [(4, 3, 32, 32)] * 2 + [
            (4, 3, 48, 48)
        ]
        assert (batch.epoch, batch.progress) == (step / 2, step / 4)
        assert batch.image_sizes.tolist() == [[60, 80]] * 4
        x, y, width, height = batch.rectangles.unbind(dim=-1)
        assert ((x >= 0) & (y >= 0) & (x + width <= 80) & (y + height <= 60)).all()
        corners = torch.stack([batch.index.float(), x[2], y[2]], dim=1)
        torch.testing.assert_close(batch.extras["corner"], corners)
    state = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    assert state["calls"].tolist() == [3, 4, 4]
    cfg.OVERLAP.WEIGHT = 0.0
    with refuses("bad-value") as caught:
        pretrain(cfg)
    assert caught.match("OVERLAP.WEIGHT must be > 0, got 0.0")
