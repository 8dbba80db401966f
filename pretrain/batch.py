"""What a step works on, and what it returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """V views of each of N images, on the device of the method.

    Attributes:
        views: V tensors ``(N, 3, H, W)``, normalised; their sizes may differ, and which of them are
            queries or keys is up to the method.
        rectangles: ``(V, N, 4)`` x, y, width and height of each view in pixels of its image.
        flips: ``(V, N)`` bool, whether a view was mirrored after it was cut.
        image_sizes: ``(N, 2)`` height and width of the images in pixels.
        index: ``(N,)`` positions of the images in the dataset.
        epoch: passes over the data before this step, fractional.
        progress: share of the run before this step, in [0, 1).
        extras: what :meth:`pretrain.methods.base.Method.loader_extras` adds, ``(N, …)`` each.
    """

    views: list[Tensor]
    rectangles: Tensor
    flips: Tensor
    image_sizes: Tensor
    index: Tensor
    epoch: float = 0.0
    progress: float = 0.0
    extras: dict[str, Tensor] = field(default_factory=dict)


def whole_images(views: Sequence[Tensor], *, epoch: float = 0.0, progress: float = 0.0) -> Batch:
    """Return a batch whose views ``(N, 3, H, W)`` are whole images: for tests and benchmarks."""
    count, device = len(views[0]), views[0].device
    sizes = torch.tensor([view.shape[2:] for view in views], device=device)
    boxes = torch.cat([torch.zeros_like(sizes), sizes.flip(1)], dim=1).float()
    return Batch(
        views=list(views),
        rectangles=boxes.unsqueeze(1).expand(-1, count, -1),
        flips=torch.zeros(len(views), count, dtype=torch.bool, device=device),
        image_sizes=sizes[:1].expand(count, -1),
        index=torch.arange(count, device=device),
        epoch=epoch,
        progress=progress,
    )


@dataclass
class StepOutput:
    """The result of one forward pass.

    Attributes:
        losses: name → scalar with gradient, logged as it is.
        weights: name → factor of that loss in the minimised sum; 1 if it is missing.
        metrics: name → detached scalar, for the log.
        keys: table name → ``(N, d)`` rows of this process, enqueued after the optimizer's step.
        labels: ``(N, D)`` bool, the pseudo-labels of the first views; for measuring only.
    """

    losses: dict[str, Tensor]
    weights: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None

    def weighted(self) -> dict[str, Tensor]:
        """Return the losses times their weights: the terms of the minimised sum."""
        return {name: loss * self.weights.get(name, 1.0) for name, loss in self.losses.items()}
