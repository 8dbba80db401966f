"""A picture of test images, with what they show and what a classifier takes them for."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from mls_d2.core.files import atomic_write

_COLUMNS = 6
_LINE = 26  # letters below an image


def write_classifications(
    path: str,
    model: nn.Module,
    records: Sequence[dict[str, Any]],
    mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
    names: Sequence[str],
    colours: str,
    *,
    num_images: int = 12,
) -> None:
    """Write a PNG of some test images, as the model gets them, with their classes.

    Below each is what it shows, and as many of the model's best classes, green where all of them
    are right and red otherwise. The images are spread evenly, so that every model of a comparison
    is shown on the same ones.

    Args:
        path: the file to write.
        model: an :class:`mls_d2.modeling.classifier.ImageClassifier`.
        records: of the test images.
        mapper: from a record to the model's input.
        names: of the classes.
        colours: of the input, ``"RGB"`` or ``"BGR"``.
        num_images: how many at most.
    """
    positions = np.linspace(0, len(records) - 1, num=min(num_images, len(records))).round()
    mapped = [mapper(records[int(position)]) for position in positions]
    inputs = [item for item in mapped if item is not None]
    rows = -(-len(inputs) // _COLUMNS)
    figure = Figure(figsize=(2 * _COLUMNS, 2.8 * rows), dpi=100)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, item, scores in zip(axes, inputs, _scores(model, inputs), strict=False):
        image = item["image"] if colours == "RGB" else item["image"].flip(0)
        axis.imshow(image.permute(1, 2, 0).numpy())
        truth, found = compare(scores, item["classes"], item["difficult"])
        right = set(found) <= {*item["classes"], *item["difficult"]}
        for line, classes, place, colour in (
            ("is", truth, -0.03, "black"),
            ("found", found, -0.21, "green" if right else "firebrick"),
        ):
            text = f"{line}: " + (", ".join(names[index] for index in classes) or "none of them")
            wrapped = "\n".join(textwrap.wrap(text, _LINE, max_lines=2, placeholder=" …"))
            axis.text(0, place, wrapped, color=colour, fontsize=8, va="top",
                      transform=axis.transAxes)  # fmt: skip
    figure.subplots_adjust(0.01, 0.29 / rows, 0.99, 0.99, wspace=0.08, hspace=0.42)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def compare(
    scores: torch.Tensor, classes: Sequence[int], difficult: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the classes that an image shows, and as many with the highest scores ``(C,)``.

    Difficult ones stand in for an image that shows nothing else.
    """
    truth = sorted(classes) or sorted(difficult)
    return truth, sorted(scores.topk(max(len(truth), 1)).indices.tolist())


def _scores(model: nn.Module, inputs: list[dict[str, Any]]) -> list[torch.Tensor]:
    training = model.training
    model.eval()
    with torch.no_grad():
        outputs = model(inputs)
    model.train(training)
    return [output["scores"].cpu() for output in outputs]
