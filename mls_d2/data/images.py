"""Reading images of any common kind as 8-bit RGB, and listing folders of them."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from mls_d2.core.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_UNREADABLE = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)


class BrokenImageError(Exception):
    """A file that is no image, or a truncated one."""


@dataclass(frozen=True)
class EncodedImage:
    """An image of which only the header was read, so that crops can be drawn before decoding.

    Attributes:
        data: the file.
        name: for messages.
        height, width: pixels of the whole image, upright.
        format: Pillow's name of the file's format, such as "JPEG".
        plain: an RGB JPEG that needs no turning.
    """

    data: bytes
    name: str
    height: int
    width: int
    format: str
    plain: bool

    def decode(self, reduction: int = 1) -> np.ndarray:
        """Decode as RGB; see :func:`read_image` for what is converted.

        Args:
            reduction: 1, 2, 4 or 8. A plain JPEG is decoded at this part of its size, which its
                transform gives cheaply; other files always at their own.

        Returns:
            ``(H, W, 3)`` uint8, writable.

        Raises:
            BrokenImageError: truncated or not decodable.
        """
        if self.plain:
            try:
                return simplejpeg.decode_jpeg(
                    self.data,
                    "RGB",
                    min_height=-(-self.height // reduction),
                    min_width=-(-self.width // reduction),
                    min_factor=reduction,
                )
            except ValueError:
                pass  # Damaged, or only odd: Pillow tells them apart.
        try:
            with Image.open(io.BytesIO(self.data)) as image:
                return np.array(_to_rgb(ImageOps.exif_transpose(image)))
        except _UNREADABLE as error:
            raise BrokenImageError(f"{self.name}: {error}") from None


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
    return open_image(read_file(path), name=path).decode()


def read_file(path: str) -> bytes:
    """Return a file's bytes.

    Raises:
        BrokenImageError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BrokenImageError(f"{path}: {error.strerror}") from None


def open_image(data: bytes, *, name: str = "image") -> EncodedImage:
    """Read the header of an image file's bytes; ``name`` is for messages.

    Raises:
        BrokenImageError: no image, or one too large to be honest.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            kind = str(image.format)
            plain = kind == "JPEG" and image.mode == "RGB" and orientation == 1
    except _UNREADABLE as error:
        raise BrokenImageError(f"{name}: {error}") from None
    if orientation in _TURNED:
        width, height = height, width
    return EncodedImage(data, name, height, width, kind, plain)


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
