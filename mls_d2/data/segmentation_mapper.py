"""Semantic segmentation: the mapper with its augmentations, and the reader of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode

from mls_d2.core.errors import UserError
from mls_d2.data.images import BrokenImageError, read_file, read_image

_TRIES = 10
_PROB = 0.5
_BRIGHTNESS = 32
_FACTORS = (0.5, 1.5)
_HUE = 18  # of 180: OpenCV's hues of 8-bit images
_LEVELS = np.arange(256)


@dataclass(frozen=True)
class SegmentationMapper:
    """Detectron2 mapper for semantic segmentation.

    Training: the image is scaled by a random ratio, cropped so that no class fills the crop,
    mirrored with probability 0.5 and distorted in its colours. Labels are padded to the size of the
    crop; the network pads the image. Testing: the image is scaled to the base size.
    """

    is_train: bool
    base_size: tuple[int, int]  # (height, width) that an image is scaled to fit in
    scale_range: tuple[float, float]  # bounds of the random ratio
    crop_size: tuple[int, int]  # (height, width) of crops
    # Largest share of one class among the labelled pixels of a crop; after ten tries any crop is
    # taken.
    max_class_share: float
    flip: bool
    num_classes: int  # labels are below it, or ``ignore_value``
    ignore_value: int  # label of pixels without a class

    @classmethod
    def from_config(cls, cfg: CfgNode, *, is_train: bool) -> SegmentationMapper:
        """Return the mapper of a config."""
        node, head = cfg.INPUT.SEGMENTATION, cfg.MODEL.SEM_SEG_HEAD
        return cls(
            is_train=is_train,
            base_size=tuple(node.BASE_SIZE),
            scale_range=tuple(node.SCALE_RANGE),
            crop_size=tuple(node.CROP_SIZE),
            max_class_share=node.MAX_CLASS_SHARE,
            flip=cfg.INPUT.RANDOM_FLIP == "horizontal",
            num_classes=head.NUM_CLASSES,
            ignore_value=head.IGNORE_VALUE,
        )

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Read the ``file_name`` of a record, and in training its ``sem_seg_file_name``.

        Returns:
            The record with ``image`` ``(3, h, w)`` uint8, and in training ``sem_seg`` uint8 of the
            size of a crop; in testing ``height`` and ``width`` of the file, for the prediction.

        Raises:
            BrokenImageError: the image cannot be read.
            UserError: labels that cannot be read, are out of range, or of another size.
        """
        image = read_image(record["file_name"])
        if not self.is_train:
            height, width = image.shape[:2]
            size = fitting_size((height, width), self.base_size)
            shown = _to_tensor(_resize(image, size, cv2.INTER_LINEAR))
            return {**record, "image": shown, "height": height, "width": width}
        name = record["sem_seg_file_name"]
        labels = read_labels(name, self.num_classes, self.ignore_value)
        check_same_size(name, labels.shape, image.shape[:2])
        image, labels = self._augment(image, labels)
        padded = np.full(self.crop_size, self.ignore_value, np.uint8)
        padded[: labels.shape[0], : labels.shape[1]] = labels
        return {**record, "image": _to_tensor(image), "sem_seg": torch.from_numpy(padded)}

    def _augment(self, image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ratio = np.random.uniform(*self.scale_range)
        size = fitting_size(labels.shape, self.base_size, ratio)
        labels = _resize(labels, size, cv2.INTER_NEAREST)
        rows, columns = choose_crop(labels, self.crop_size, self.max_class_share, self.ignore_value)
        image = _resize(image, size, cv2.INTER_LINEAR)[rows, columns]
        labels = labels[rows, columns]
        if self.flip and np.random.rand() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        return photometric_distortion(np.ascontiguousarray(image)), labels


def fitting_size(
    size: tuple[int, ...], base_size: tuple[int, int], ratio: float = 1.0
) -> tuple[int, int]:
    """Return the (height, width) of an image that is scaled to fit into ``ratio`` base sizes.

    The long side is compared with the base's long side, and the aspect ratio is kept.
    """
    long, short = (int(side * ratio) for side in sorted(base_size, reverse=True))
    factor = min(long / max(size), short / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def choose_crop(
    labels: np.ndarray, crop_size: tuple[int, int], max_class_share: float, ignore_value: int
) -> tuple[slice, slice]:
    """Draw crops until one has two classes and none of more than the allowed share.

    ``labels`` are ``(H, W)`` uint8; ``max_class_share`` is of the labelled pixels, in (0, 1], and 1
    takes the first crop. Returns rows and columns: of the tenth crop if none of the ten is good.
    """
    for _ in range(_TRIES):
        top, left = (
            np.random.randint(max(0, side - crop) + 1)
            for side, crop in zip(labels.shape, crop_size, strict=True)
        )
        crop = slice(top, top + crop_size[0]), slice(left, left + crop_size[1])
        if max_class_share >= 1:
            break
        counts = np.bincount(labels[crop].ravel(), minlength=256)
        counts[ignore_value] = 0
        if np.count_nonzero(counts) > 1 and counts.max() < max_class_share * counts.sum():
            break
    return crop


def read_labels(path: str, num_classes: int, ignore_value: int) -> np.ndarray:
    """Read an image of train ids.

    Returns:
        ``(H, W)`` uint8.

    Raises:
        UserError: unreadable, no 8-bit image of one channel, or with other labels than those of the
            classes and ``ignore_value``.
    """
    labels = stored_pixels(path)
    if labels is None:
        raise UserError(
            f"{path}: missing, truncated or no image; get the file again", code="damaged-file"
        )
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise UserError(
            f"{path} is {labels.dtype} of shape {labels.shape}, expected an 8-bit image of one "
            "channel",
            code="damaged-file",
        )
    strange = np.arange(256) >= num_classes
    strange[ignore_value] = False
    if cv2.LUT(labels, strange.astype(np.uint8)).any():
        wrong = np.flatnonzero(strange & (np.bincount(labels.ravel(), minlength=256) > 0))
        raise UserError(
            f"{path} has the labels {', '.join(map(str, wrong[:8]))}; expected train ids 0 to "
            f"{num_classes - 1} and {ignore_value}. It looks like label ids: remove the "
            "labelTrainIds files, and they are made again from the labelIds files",
            code="damaged-file",
        )
    return labels


def stored_pixels(path: str) -> np.ndarray | None:
    """Return an image as it is stored, of any depth and channels; None if it cannot be read."""
    try:
        data = read_file(path)
    except BrokenImageError:
        return None
    # Not by imread, which ends the process at a path that is no UTF-8.
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None


def check_same_size(path: str, size: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse labels that are not of the size of their image.

    Raises:
        UserError: names the file and both sizes.
    """
    if tuple(size) != tuple(expected):
        raise UserError(
            f"{path} is {size[0]} x {size[1]} pixels, its image {expected[0]} x {expected[1]}; "
            "the files do not belong together",
            code="damaged-file",
        )


def photometric_distortion(image: np.ndarray) -> np.ndarray:
    """Change brightness, contrast, saturation and hue at random, each with probability 0.5.

    Brightness by up to 32 levels; contrast and saturation by a factor of 0.5 to 1.5; hue by up to
    18 of 180 steps. The contrast changes before or after the colours, with equal probability. Draws
    from NumPy's global generator. Images are ``(H, W, 3)`` uint8, RGB, not changed in place.

    Source: SSD (ECCV 2016), as mmsegmentation's recipes use it.
    """
    brightness = np.random.uniform(-_BRIGHTNESS, _BRIGHTNESS) if _coin() else 0.0
    contrast = _factor()
    contrast_last = _coin()
    saturation = _factor()
    hue = np.random.randint(-_HUE, _HUE + 1) if _coin() else 0
    table = _clipped(_LEVELS + brightness)
    if not contrast_last:
        table = _clipped(table * contrast)
    image = cv2.LUT(image, table)
    image = shift_colours(image, saturation, hue)
    return cv2.LUT(image, _clipped(_LEVELS * contrast)) if contrast_last else image


def shift_colours(image: np.ndarray, saturation: float, hue: int) -> np.ndarray:
    """Multiply the saturation by a factor >= 0, and turn the hue by that many steps of 2°.

    Images are ``(H, W, 3)`` uint8, RGB; the image itself is returned if nothing changes.
    """
    if saturation == 1 and hue == 0:
        return image
    tables = np.empty((256, 1, 3), np.uint8)
    tables[:, 0, 0] = (_LEVELS + hue) % 180
    tables[:, 0, 1] = _clipped(_LEVELS * saturation)
    tables[:, 0, 2] = _LEVELS
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(colours, tables), cv2.COLOR_HSV2RGB)


def _coin() -> bool:
    return np.random.rand() < _PROB


def _factor() -> float:
    return np.random.uniform(*_FACTORS) if _coin() else 1.0


def _clipped(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def _resize(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=interpolation)


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
