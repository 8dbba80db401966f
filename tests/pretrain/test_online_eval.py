"""What the features tell apart is found, and measuring changes nothing."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pretrain.annotations import Annotations
from pretrain.online_eval import (
    OnlineEvaluation,
    spaced,
)


class Colour(nn.Module):
    """A backbone whose feature is the picture's mean colour, after BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": self.dropout(self.norm(images))}


@pytest.fixture
def data(tmp_path) -> Annotations:
    """Red pictures show a, blue ones b; one file is broken."""
    paths = []
    for index in range(9):
        pixels = np.zeros((12, 10, 3), np.uint8)
        pixels[..., 0 if index % 2 else 2] = 150 + 10 * index
        paths.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(pixels).save(paths[-1])
    (tmp_path / "0.png").write_bytes(b"")
    boxes = tuple(np.zeros((1, 4)) for _ in paths)
    return Annotations(tuple(paths), boxes, tuple(np.array([i % 2]) for i in range(9)), ("a", "b"))


def test_what_the_features_tell_apart_is_found_and_nothing_else_changes(data):
    torch.manual_seed(0)
    backbone = Colour().train()
    hook = OnlineEvaluation(
        backbone, data, data, period=1, size=8, mean=[0.0] * 3, std=[255.0] * 3, k=3
    )
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in backbone.state_dict().items()}
    assert hook.measure() == 1.0
    assert backbone.training
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(state[name], value) for name, value in backbone.state_dict().items())


def test_a_limit_takes_images_from_all_of_the_dataset(data):
    assert spaced(data, 100) == data
    few = spaced(data, 3)
    assert [path[-5:] for path in few.paths] == ["0.png", "3.png", "6.png"]
    assert len(few.boxes) == len(few.categories) == 3
