"""Loss curves of short runs, recorded: what changes them changes every published number.

After a change that is meant: MLS_D2_RECORD=1 pytest tests/pretrain/test_golden.py
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretrain.batch import whole_images
from pretrain.heads import mlp
from pretrain.methods import METHODS
from pretrain.samples import take_step
from tests.pretrain.methods.tiny import PYRAMIDS, SMALL, VIEWS, make_backbone, make_batch

GOLDEN = Path(__file__).with_name("golden")
OPTIONS = {
    "mls": {"k": 3, "loss_weight": 0.5, "warmup": 2.0},
    "revisiting": {"k": 3, "weight": 0.4},
    "densecl": {"dense_weight": 0.5},
    "simclr": {"temperature": 0.2},
    "barlowtwins": {"redundancy_weight": 0.1, "scale": 1.0},
    "vicreg": {"invariance_weight": 1.0, "variance_weight": 1.0},
    "swav": {"freeze_steps": 10, "queue_size": 16, "queue_start": 1.0},
    "dino": {"freeze_epochs": 1.0, "clip_gradients": 0.1},
}
# Values of options that many methods have.
SHARED = {"dictionary_size": 32, "temperature": 0.2, "momentum": 0.9}
# Their heads stay as they are.
OWN_HEADS = ("dino", "pixpro", "slotcon", "resim", "setsim", "lewel", "self_emd", "soco", "orl")
PREDICTORS = {"byol": (4, 8, 4), "simsiam": (4, 3, 4), "mocov3": (4, 8, 4)}


class Backbone(nn.Module):
    """Shallow: through the BatchNorms of a deep one, rounding grows until processors disagree."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3)
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": self.layers(images).relu()}


def build(name: str) -> nn.Module:
    """Return a method on a shallow backbone, with linear projectors of four channels."""
    cls = METHODS.get(name)
    known = {item.name for item in dataclasses.fields(cls.Options)}
    values = {key: value for key, value in (SMALL | SHARED).items() if key in known}
    method = cls(make_backbone(name, Backbone), 6, cls.Options(**(values | OPTIONS.get(name, {}))))
    for encoder in (method.encoder, getattr(method, "momentum_encoder", None)):
        if encoder is None:
            continue
        if name == "densecl":
            encoder.projector.projector = nn.Linear(6, 4)
            encoder.projector.dense = mlp(6, 5, 4, norm="", dense=True)
        elif name not in OWN_HEADS:
            encoder.projector = nn.Linear(6, 4)
    if name in PREDICTORS:
        method.predictor = mlp(*PREDICTORS[name])
    return method.double()


def loss_curves(name: str) -> dict[str, list[float]]:
    """Return the weighted losses of forty steps of SGD, in float64."""
    generator, curves = torch.Generator().manual_seed(1), {}

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1

    method = build(name)
    with torch.no_grad():
        for key, weight in method.named_parameters():
            if not key.startswith("momentum_encoder"):
                weight.copy_(draw(*weight.shape) / weight[0].numel() ** 0.5)
        if METHODS.get(name).has_keys:
            method.momentum_encoder.load_state_dict(method.encoder.state_dict())
            method.momentum_encoder.requires_grad_(False)
        if hasattr(method, "dictionary"):
            for table in map(method.dictionary.__getitem__, method.dictionary.names):
                table.copy_(F.normalize(draw(*table.shape), dim=1))
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    side = 64 if name in PYRAMIDS else 12
    # ReSim's views have the same flip.
    batch = whole_images if name == "resim" else make_batch
    scenes = draw(24, 3, side, side)
    for step in range(40):
        chosen = scenes[torch.arange(8 * step, 8 * step + 8) % 24]
        views = chosen + 0.5 * draw(VIEWS.get(name, 2), *chosen.shape)
        output = take_step(method, optimizer, batch(views, epoch=step / 10), step)
        for key, loss in output.weighted().items():
            curves.setdefault(key, []).append(loss.item())
    return curves


@pytest.mark.parametrize("method", METHODS.names())
def test_the_losses_of_a_short_run_are_those_recorded(method):
    curves, path = loss_curves(method), GOLDEN / f"{method}.json"
    if os.environ.get("MLS_D2_RECORD"):
        path.write_text(json.dumps(curves, indent=1) + "\n")
    recorded = json.loads(path.read_text())
    assert recorded.keys() == curves.keys()
    for name, curve in curves.items():
        np.testing.assert_allclose(curve, recorded[name], rtol=1e-4)
