"""Tiny methods and batches for tests."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
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
    "dim": 5,
    "head_convs": 1,
    "conv_dim": 3,
    "fc_dim": 6,
    "level_limits": (16, 32, 48),
    "c4_windows": (32, 16),
    "c3_windows": (24, 12),
    "groups": 2,
}
# Two views of four images: overlapping; the same crop; without a common pixel; of a small image.
RECTANGLES = torch.tensor(
    [
        [[10, 20, 100, 80], [5, 5, 60, 60], [0, 0, 20, 20], [9, 9, 30, 30]],
        [[40, 30, 90, 120], [5, 5, 60, 60], [90, 60, 30, 40], [20, 1, 40, 60]],
    ],
    dtype=torch.float64,
)
FLIPS = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]], dtype=torch.bool)
SIZES = torch.tensor([[200, 160], [90, 80], [100, 120], [70, 75]])
# Views that share windows, except those of the third image, with the same flip.
WINDOWED = torch.tensor(
    [
        [[10, 20, 100, 80], [5, 5, 60, 60], [0, 0, 20, 20], [9, 9, 60, 50]],
        [[8, 15, 110, 120], [5, 5, 60, 60], [90, 60, 30, 40], [2, 1, 70, 60]],
    ],
    dtype=torch.float64,
)
TOGETHER = torch.tensor([[0, 1, 0, 1]] * 2, dtype=torch.bool)


class FlatBackbone(nn.Module):
    """A linear map of every pixel's colour to six channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": torch.einsum("nchw,dc->ndhw", images, self.weight)}


class Pyramid(Backbone):
    """Maps of colours, from res5 at a thirty-second of the view to res2 at a quarter."""

    channels = {"res3": 3, "res4": 4, "res5": 6}

    def __init__(self, channels: dict[str, int] | None = None) -> None:
        super().__init__()
        self.channels = channels or self.channels
        self.convs = nn.ModuleDict({n: nn.Conv2d(3, c, 1) for n, c in self.channels.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            name: self.convs[name](nn.functional.avg_pool2d(images, shape.stride, ceil_mode=True))
            for name, shape in self.output_shape().items()
        }

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=channels, stride=2 ** int(name[-1]))
            for name, channels in self.channels.items()
        }


# Methods that read maps of several strides, and so want views of 32 pixels and more.
PYRAMIDS = {"resim": Pyramid.channels, "soco": {"res2": 2} | Pyramid.channels}

# Views of an image, where they are not two.
VIEWS = {"orl": 6}


def make_backbone(name: str, flat: Callable[[], nn.Module] = FlatBackbone) -> nn.Module:
    """Return the backbone of six channels that a method needs."""
    return Pyramid(PYRAMIDS[name]) if name in PYRAMIDS else flat()


def make_method(name: str, **changes: object) -> Method:
    """Return a tiny method in float64; ``changes`` replace options by name."""
    method = METHODS.get(name)
    fields = {item.name for item in dataclasses.fields(method.Options)}
    small = {key: value for key, value in SMALL.items() if key in fields}
    return method(make_backbone(name), 6, method.Options(**(small | changes))).double()


def make_frozen(name: str, **changes: object) -> Method:
    """Return a tiny method whose momentum encoder has weights of its own, which stay."""
    method = make_method(name, **changes)
    freeze(method)
    return method


def make_batch(
    views: Sequence[torch.Tensor], *, epoch: float = 0.0, progress: float = 0.0
) -> Batch:
    """Return a batch of views ``(N, 3, H, W)`` that are whole images, the second one mirrored."""
    batch = whole_images(views, epoch=epoch, progress=progress)
    batch.flips[1] = True
    batch.extras["boxes"] = object_boxes(len(views[0]), len(views) - 1)
    return batch


def object_boxes(images: int, pairs: int) -> torch.Tensor:
    """Return SoCo's boxes ``(N, B, 2, 4, 5)`` of every size, the last one a copy."""
    sides = torch.tensor([0.15, 0.4, 0.65, 0.9])
    image, pair, view, box = torch.meshgrid(
        *map(torch.arange, (images, pairs, 2, 4)), indexing="ij"
    )
    number = torch.where(box == 3, (image + pair) % 3, box)
    side = sides[(number + image + pair) % 4] * (1 + 0.05 * view)
    start = (1 - side) * ((2 * number + image + 3 * view) % 5) / 4
    return torch.stack([start, 1 - start - side, start + side, 1 - start, number.float()], dim=-1)


def scene_batch(side: int, count: int = 2) -> Batch:
    """Return random views of ``side`` pixels, of which the first two are the crops above."""
    views = torch.randn(count, 4, 3, side, side, dtype=torch.float64)
    extras = {"boxes": object_boxes(4, 1)}
    where = (made.to(views.device) for made in (RECTANGLES, FLIPS, SIZES))
    return Batch(list(views), *where, torch.arange(4), extras=extras)


def window_batch() -> Batch:
    """Return random views of 64 pixels with windows in common, for ReSim."""
    batch = scene_batch(64)
    moved = (made.to(batch.flips.device) for made in (WINDOWED, TOGETHER))
    return dataclasses.replace(batch, **dict(zip(("rectangles", "flips"), moved, strict=True)))


def swapped(batch: Batch) -> Batch:
    """Return the batch with its views in the other order."""
    views, boxes, flips = batch.views[::-1], batch.rectangles.flip(0), batch.flips.flip(0)
    return dataclasses.replace(batch, views=views, rectangles=boxes, flips=flips)


def apart(batch: Batch) -> Batch:
    """Return the batch with views that have no pixel in common."""
    return dataclasses.replace(batch, rectangles=batch.rectangles[:, 2:3].expand(2, 4, 4))


def disturb(*modules: nn.Module, amount: float = 0.5) -> None:
    """Move every weight at random."""
    with torch.no_grad():
        for module in modules:
            for weight in module.parameters():
                weight.add_(amount * torch.randn_like(weight))


def freeze(method: Method, amount: float = 0.5) -> None:
    """Give a momentum encoder weights of its own, which stay."""
    disturb(method.momentum_encoder, amount=amount)
    method.options = dataclasses.replace(method.options, momentum=1.0)
