"""Writing images and folders, with errors that say what a user can do."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mls_d2.core.errors import UserError
from mls_d2.core.files import atomic_write

JPEG_QUALITY = 92


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a :class:`UserError` says why it could not be written."""
    with atomic_write(str(path)) as file:
        file.write(content)


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write an RGB image ``(H, W, 3)`` uint8 as JPEG."""
    write_bytes(path, _encode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)))


def write_png(path: Path, image: np.ndarray) -> None:
    """Write as PNG: RGB ``(H, W, 3)`` uint8, or one channel ``(H, W)`` of uint8 or uint16."""
    pixels = image[..., ::-1] if image.ndim == 3 else image
    write_bytes(path, _encode(".png", pixels, ()))


def _encode(suffix: str, pixels: np.ndarray, options: tuple[int, ...]) -> bytes:
    done, content = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
    assert done, f"OpenCV could not encode {pixels.shape} {pixels.dtype} as {suffix}"
    return content.tobytes()


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {path} ({error.strerror}); choose one that you can write to"
        ) from error
