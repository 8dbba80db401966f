"""Tiny methods and batches for tests."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from pretrain.batch import Batch, whole_images
from pretrain.methods import METHODS, Method

# Values that make any method tiny, by the name of the option.
SMALL = {
    "dictionary_size": 8,
    "k": 2,
    "projector_dim": 4,
    "projector_hidden_dim": 5,
    "projector_out_dim": 4,
    "predictor_hidden_dim": 3,
    "hidden_dim": 5,
    "out_dim": 4,
    "num_prototypes": 6,
    "bottleneck_dim": 4,
}


class FlatBackbone(nn.Module):
    """A linear map of every pixel's colour to six channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": torch.einsum("nchw,dc->ndhw", images, self.weight)}


def make_method(name: str, **changes: object) -> Method:
    """Return a tiny method in float64; ``changes`` replace options by name."""
    method = METHODS.get(name)
    fields = {item.name for item in dataclasses.fields(method.Options)}
    small = {key: value for key, value in SMALL.items() if key in fields}
    return method(FlatBackbone(), 6, method.Options(**(small | changes))).double()


def make_batch(
    views: Sequence[torch.Tensor], *, epoch: float = 0.0, progress: float = 0.0
) -> Batch:
    """Return a batch of views ``(N, 3, H, W)`` that are whole images, the second one mirrored."""
    batch = whole_images(views, epoch=epoch, progress=progress)
    batch.flips[1] = True
    return batch


def disturb(*modules: nn.Module) -> None:
    """Move every weight at random."""
    with torch.no_grad():
        for module in modules:
            for weight in module.parameters():
                weight.add_(0.5 * torch.randn_like(weight))


def freeze(method: Method) -> None:
    """Give a momentum encoder weights of its own, which stay."""
    disturb(method.momentum_encoder)
    method.options = dataclasses.replace(method.options, momentum=1.0)
