"""Reading images of any common kind as 8-bit RGB, and listing folders of them."""

from __future__ import annotations

import io
import os

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mls_d2.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
_EXIF_ORIENTATION = 0x0112
_JPEG_END = b"\xff\xd9"


class BrokenImageError(Exception):
    """A file that is no image, or a truncated one."""


def read_image(path: str) -> np.ndarray:
    """Read an image file as RGB.

    Greyscale, palette, CMYK, 16-bit and transparent images are converted (transparent ones over
    white), and EXIF rotation is applied.

    Args:
        path: a file in any format that Pillow reads.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        BrokenImageError: the file is missing, empty, truncated or no image.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise BrokenImageError(f"{path}: {error.strerror}") from None
    return decode_image(data, name=path)


def decode_image(data: bytes, *, name: str = "image") -> np.ndarray:
    """Decode the bytes of an image file as :func:`read_image` does; ``name`` is for messages."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            plain = image.format == "JPEG" and image.mode == "RGB"
            if plain and image.getexif().get(_EXIF_ORIENTATION, 1) == 1:
                return _decode_plain_jpeg(data, name)
            image.load()
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, cv2.error) as error:
        raise BrokenImageError(f"{name}: {error}") from None
    except Image.DecompressionBombError as error:
        raise BrokenImageError(f"{name}: {error}") from None


def _decode_plain_jpeg(data: bytes, name: str) -> np.ndarray:
    # OpenCV decodes faster than Pillow but fills what a truncated file lacks with grey, without
    # error. Some cameras append data after the end marker, so it is looked for in the tail.
    if _JPEG_END not in data[-65536:]:
        raise BrokenImageError(f"{name}: truncated JPEG")
    image = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if image is None:
        raise BrokenImageError(f"{name}: not decodable")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow clips 16-bit grey to 255 instead of scaling it.
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max() > 255 else 255.0
        return Image.fromarray(
            (values.clip(0, top) * (255.0 / top)).round().astype(np.uint8)
        ).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def list_images(folder: str) -> list[str]:
    """Return the paths of all images below ``folder``, sorted, following no hidden folders.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"no image folder '{folder}'")
    found: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(parent, name)
            for name in files
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
    if not found:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"no images in '{folder}' (looked for {kinds} in all subfolders)")
    return sorted(found)
