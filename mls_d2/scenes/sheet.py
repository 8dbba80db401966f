"""Contact sheets: scenes side by side, each without and with its annotations drawn."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from mls_d2.scenes import coco
from mls_d2.scenes.generate import picture_of
from mls_d2.scenes.labels import KINDS
from mls_d2.scenes.marker import SceneParams
from mls_d2.scenes.render import Picture

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def contact_sheet(
    params: SceneParams, *, count: int = 16, columns: int = 4, scale: int = 3
) -> np.ndarray:
    """Draw the first scenes of COCO train2017.

    Args:
        params: which scenes.
        count: how many scenes.
        columns: scenes in a row; each takes two tiles.
        scale: pixels of the sheet for one pixel of an image.

    Returns:
        RGB ``(H, W, 3)`` uint8.
    """
    split = coco.splits(SceneParams(seed=params.seed, train=count, size=params.size))[0]
    pairs = []
    for index in range(count):
        picture = picture_of(params.seed, split, index)
        plain = cv2.resize(picture.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        pairs.append(np.concatenate((plain, draw_annotations(picture, plain, scale)), axis=1))
    blank = np.zeros_like(pairs[0])
    pairs += [blank] * (-len(pairs) % columns)
    rows = [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def draw_annotations(picture: Picture, image: np.ndarray, scale: int) -> np.ndarray:
    """Return a copy of an enlarged image with masks, boxes and category names drawn over it.

    Args:
        picture: whose annotations to draw.
        image: its image, RGB ``(H * scale, W * scale, 3)`` uint8.
        scale: the enlargement.
    """
    drawn = image.copy()
    for number, mask, (x, y, w, h) in coco.visible_things(picture):
        rgb = colorsys.hsv_to_rgb(number * 0.618 % 1.0, 0.85, 1.0)
        colour = tuple(round(255 * value) for value in rgb)
        large = cv2.resize(
            mask.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST
        )
        drawn[large > 0] = (0.5 * drawn[large > 0] + 0.5 * np.array(colour)).astype(np.uint8)
        corner = (x * scale, y * scale)
        cv2.rectangle(drawn, corner, ((x + w) * scale - 1, (y + h) * scale - 1), colour, 1)
        name = KINDS[picture.kinds[number]].coco or ""
        cv2.putText(
            drawn, name, (corner[0], max(9, corner[1] - 2)), _FONT, 0.32, colour, 1, cv2.LINE_AA
        )
    return drawn
