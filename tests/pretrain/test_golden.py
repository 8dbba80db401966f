"""Loss curves of short runs, recorded: what changes them changes every published number.

After a change that is meant: MLS_D2_RECORD=1 pytest tests/pretrain/test_golden.py
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretrain.heads import dense_projector, mlp
from pretrain.methods.barlow_twins import BarlowTwins
from pretrain.methods.base import DictionaryMethod, MomentumMethod
from pretrain.methods.byol import BYOL
from pretrain.methods.densecl import DenseCL
from pretrain.methods.mls import MLS
from pretrain.methods.moco import MoCo
from pretrain.methods.revisiting import Revisiting
from pretrain.methods.simclr import SimCLR
from pretrain.methods.simsiam import SimSiam

GOLDEN = Path(__file__).with_name("golden")
SHARED = {"embedding_dim": 4, "dictionary_size": 32, "temperature": 0.2, "momentum": 0.9}
METHODS = {
    "mocov2": lambda *parts: MoCo(*parts, **SHARED),
    "mls": lambda *parts: MLS(
        *parts, **SHARED, feature_dim=6, num_positives=3, loss_weight=0.5, warmup=2.0
    ),
    "revisiting": lambda *parts: Revisiting(
        *parts, **SHARED, feature_dim=6, num_neighbors=3, loss_weight=0.4
    ),
    "densecl": lambda *parts: DenseCL(*parts, dense_projector(6, 5, 4), **SHARED, dense_weight=0.5),
    "byol": lambda *parts: BYOL(*parts, mlp(4, 8, 4), momentum=0.9),
    "simclr": lambda *parts: SimCLR(*parts, temperature=0.2),
    "simsiam": lambda *parts: SimSiam(*parts, mlp(4, 3, 4)),
    "barlowtwins": lambda *parts: BarlowTwins(*parts, redundancy_weight=0.1, scale=1.0),
}


class Backbone(nn.Module):
    """Shallow: through the BatchNorms of a deep one, rounding grows until processors disagree."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3)
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": self.layers(images).relu()}


def loss_curves(name: str) -> dict[str, list[float]]:
    """Return the losses of forty steps of SGD, in float64."""
    generator, curves = torch.Generator().manual_seed(1), {}

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1

    method = METHODS[name](Backbone(), nn.Linear(6, 4)).double()
    with torch.no_grad():
        for weight in filter(lambda p: p.requires_grad, method.parameters()):
            weight.copy_(draw(*weight.shape) / weight[0].numel() ** 0.5)
        if isinstance(method, MomentumMethod):
            pair = method.pair
            pair.momentum_backbone.load_state_dict(pair.backbone.state_dict())
            pair.momentum_projector.load_state_dict(pair.projector.state_dict())
        if isinstance(method, DictionaryMethod):
            for table in map(method.dictionary.__getitem__, method.dictionary.names):
                table.copy_(F.normalize(draw(*table.shape), dim=1))
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    scenes = draw(24, 3, 12, 12)
    for step in range(40):
        chosen = scenes[torch.arange(8 * step, 8 * step + 8) % 24]
        output = method(*(chosen + 0.5 * draw(2, *chosen.shape)), epoch=step / 10)
        optimizer.zero_grad()
        sum(output.losses.values()).backward()
        optimizer.step()
        method.after_optimizer_step()
        method.enqueue(output.keys)
        for key, loss in output.losses.items():
            curves.setdefault(key, []).append(loss.item())
    return curves


@pytest.mark.parametrize("method", METHODS)
def test_the_losses_of_a_short_run_are_those_recorded(method):
    curves, path = loss_curves(method), GOLDEN / f"{method}.json"
    if os.environ.get("MLS_D2_RECORD"):
        path.write_text(json.dumps(curves, indent=1) + "\n")
    recorded = json.loads(path.read_text())
    assert recorded.keys() == curves.keys()
    for name, curve in curves.items():
        np.testing.assert_allclose(curve, recorded[name], rtol=1e-4)
