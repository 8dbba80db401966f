"""What a model finds in an image, drawn over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import ColorMode, Visualizer

from mls_d2.core.errors import UserError

_OPACITY = 0.6
_MIN_HEIGHT = 480


def draw_output(
    image: np.ndarray, output: Mapping[str, Any], metadata: Metadata, *, min_score: float
) -> np.ndarray:
    """Draw what a Detectron2 model returned for one image.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        output: with ``instances``, in pixels of ``image``, or ``sem_seg``, ``(K, H, W)`` scores.
        metadata: of the dataset that names the classes.
        min_score: instances below it are not drawn, in [0, 1].

    Returns:
        ``(H', W', 3)`` uint8, RGB: at least 480 pixels high for instances, whose names would not be
        readable otherwise; of the image's size for ``sem_seg``.

    Raises:
        UserError: the model returned neither.
    """
    if "instances" in output:
        found = output["instances"].to("cpu")
        found = found[found.scores >= min_score]
        scale = max(1.0, _MIN_HEIGHT / image.shape[0])
        drawn = Visualizer(image, metadata, scale, ColorMode.SEGMENTATION)
        return np.ascontiguousarray(drawn.draw_instance_predictions(found).get_image())
    if "sem_seg" in output:
        labels = output["sem_seg"].argmax(0).cpu().numpy()
        return overlay(image, labels, _palette(metadata, len(output["sem_seg"])))
    raise UserError(
        f"this model returns {', '.join(output) or 'nothing'}; instances and sem_seg can be drawn"
    )


def overlay(image: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Lay each pixel's class over an image as a colour.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        labels: ``(H, W)`` integer in [0, K).
        palette: ``(K, 3)``, RGB in [0, 255].
    """
    return (image * (1 - _OPACITY) + palette[labels] * _OPACITY).round().astype(np.uint8)


def _palette(metadata: Metadata, num_classes: int) -> np.ndarray:
    colors = metadata.get("stuff_colors")
    if colors is not None and len(colors) >= num_classes:
        return np.asarray(colors[:num_classes])
    spread = colormap(rgb=True)
    return spread[np.arange(num_classes) % len(spread)]
