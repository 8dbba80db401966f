"""Mappers that answer images that cannot be read in good order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from mls_d2.core.errors import UserError
from mls_d2.data.images import BrokenImageError

logger = logging.getLogger(__name__)

MAX_BROKEN = 10
"""Training images that a process may leave out before the run stops."""

_UNREADABLE = (
    BrokenImageError,
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    SizeMismatchError,
)


class UnreadableImageError(UserError):
    """An image that is damaged, or is not the one that the annotations are for."""


class TolerantMapper:
    """A mapper from a record with ``file_name`` to a model's input.

    In training an image that cannot be read is left out with a warning, and the loader takes
    another in its place; more than :data:`MAX_BROKEN` of them are a damaged dataset. In evaluation
    every image counts.

    Args:
        mapper: what reads the image.
        is_train: which of the two.
    """

    def __init__(
        self, mapper: Callable[[dict[str, Any]], dict[str, Any] | None], *, is_train: bool
    ) -> None:
        self._mapper = mapper
        self._is_train = is_train
        self._broken: set[str] = set()

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """Return the model's input of a record; None for a training image to be left out.

        Raises:
            UnreadableImageError: names the file.
        """
        try:
            return self._mapper(record)
        except _UNREADABLE as error:
            name = record["file_name"]
            message = f"image '{name}' cannot be used: {' '.join(str(error).split())}"
            if not self._is_train:
                raise UnreadableImageError(f"{message}; unpack it again") from None
            if name not in self._broken:
                logger.warning("%s; it is left out of training", message)
            self._broken.add(name)
            if len(self._broken) > MAX_BROKEN:
                raise UnreadableImageError(
                    f"more than {MAX_BROKEN} training images cannot be used; unpack the dataset "
                    f"again. The last: {message}"
                ) from None
            return None


class DetectionMapper(TolerantMapper):
    """Detectron2's ``DatasetMapper``, tolerant.

    Args:
        cfg: of the run.
        is_train: see :class:`TolerantMapper`.
    """

    def __init__(self, cfg: CfgNode, *, is_train: bool) -> None:
        super().__init__(DatasetMapper(cfg, is_train=is_train), is_train=is_train)
