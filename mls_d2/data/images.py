"""Reading images of any common kind as 8-bit RGB, and listing folders of them."""

import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from mls_d2.core.errors import UserError

_COMMON = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
IMAGE_SUFFIXES = (*_COMMON, ".ppm", ".jp2", ".avif")
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange height and width


class BrokenImageError(Exception):
    """A file that is no image, or a truncated one."""


@dataclass(frozen=True)
class EncodedImage:
    """An image of which only the header was read, so that crops can be drawn before decoding."""

    data: bytes  # of the file
    name: str  # for messages
    # Pixels of the whole image, upright.
    height: int
    width: int
    format: str  # Pillow's name of the file's format, such as "JPEG"
    plain: bool  # an RGB JPEG that is upright already

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
                pass  # Damaged, or only odd: Pillow decides.
        try:
            with Image.open(io.BytesIO(self.data)) as image:
                image.load()
                turn = _TURNS.get(_orientation(image))
                return np.array(_to_rgb(image if turn is None else image.transpose(turn)))
        except MemoryError:
            raise
        except Exception as error:  # Decoders fail on damaged files in any way.
            raise BrokenImageError(f"{self.name}: {error}") from None


def read_image(path: str) -> np.ndarray:
    """Read an image file as RGB.

    Greyscale, palette, CMYK, 16-bit, floating-point (in [0, 1], or up to 255 or 65535) and
    transparent images are converted (transparent ones over white), and EXIF rotation is applied.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        BrokenImageError: the file is missing, empty, truncated or no image.
    """
    return open_image(read_file(path), name=printable(path)).decode()


def image_size(path: str) -> tuple[int, int]:
    """Return height and width of an upright image from its header.

    Raises:
        BrokenImageError: the file is missing, empty or no image.
    """
    return _header(path, printable(path))[:2]


def read_file(path: str) -> bytes:
    """Return a file's bytes.

    Raises:
        BrokenImageError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BrokenImageError(f"{printable(path)}: {error.strerror}") from None


def open_image(data: bytes, *, name: str = "image") -> EncodedImage:
    """Read the header of an image file's bytes; ``name`` is for messages.

    Raises:
        BrokenImageError: no image, or one with more pixels than Pillow accepts.
    """
    return EncodedImage(data, name, *_header(io.BytesIO(data), name))


def printable(path: str) -> str:
    """Return a path in which bytes that are no UTF-8 are escaped, so that it can be written."""
    return path.encode("utf-8", "backslashreplace").decode()


def _header(file: Any, name: str) -> tuple[int, int, str, bool]:
    """Return height, width, format and whether it is a plain JPEG."""
    try:
        with Image.open(file) as image:
            kind = str(image.format)
            if kind == "TIFF":
                image.load()  # Pillow turns a TIFF upright when it is loaded.
            width, height = image.size
            orientation = _orientation(image)
            plain = kind == "JPEG" and image.mode == "RGB" and orientation not in _TURNS
    except UnidentifiedImageError:  # Pillow names an object of Python.
        raise BrokenImageError(f"{name}: no image of a known kind") from None
    except OSError as error:
        raise BrokenImageError(f"{name}: {error.strerror or error}") from None
    except MemoryError:
        raise
    except Exception as error:
        raise BrokenImageError(f"{name}: {error}") from None
    if orientation in _SIDEWAYS:
        width, height = height, width
    return height, width, kind, plain


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # Damaged EXIF, in an image that is whole.
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow clips these to 255 instead of scaling them.
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        largest = values.max()
        top = 65535.0 if largest > 255 else 255.0
        if image.mode == "F" and largest <= 1:
            top = 1.0
        scaled = (values.clip(0, top) * (255.0 / top)).round().astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def list_images(folder: str) -> list[str]:
    """Return the paths of all images below ``folder``, sorted, without hidden files and folders.

    Links to folders are followed. Each folder is listed once, under its own path if that is below
    ``folder`` as well; so a loop of links ends.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"no image folder '{printable(folder)}'", code="missing-data")
    found: list[str] = []
    pending, seen = [folder], set()
    for top in pending:
        for parent, folders, files in os.walk(top):
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = [os.path.join(parent, name) for name in folders]
            pending += [path for path in paths if os.path.islink(path)]
            found += [
                os.path.join(parent, name)
                for name in files
                if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
            ]
    if not found:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise UserError(
            f"no images in '{printable(folder)}' (looked for {kinds} in all subfolders)",
            code="missing-data",
        )
    return sorted(found)
