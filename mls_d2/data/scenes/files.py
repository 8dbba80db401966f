"""Writing files whole or not at all, with errors that say what a user can do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import numpy as np

from mls_d2.errors import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its place, then move it there.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write an RGB image ``(H, W, 3)`` uint8 as JPEG of quality 92."""
    write_bytes(path, _encode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 92)))


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image as PNG: RGB ``(H, W, 3)`` uint8, or one channel ``(H, W)`` of uint8 or uint16."""
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
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> UserError:
    """Return the error to raise where ``path`` could not be written."""
    if error.errno == errno.ENOSPC:
        return UserError(f"no space left on the disk while writing {path}; make room and run again")
    return UserError(
        f"cannot write {path} ({error.strerror}); choose a folder that you can write to"
    )
