"""Reading images of any common kind as 8-bit RGB, and listing folders of them."""

import io
import logging
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from typing import IO

import numpy as np
import simplejpeg
from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from mls_d2.core.errors import UserError

logger = logging.getLogger(__name__)

_TOP_16 = 65535.0
# Of floats in [0, 1]: resampling overshoots a little, and up to 255 this would be all black.
_TOP_FLOAT = 2.0
_COMMON = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
IMAGE_SUFFIXES = (*_COMMON, ".ppm", ".jp2", ".avif")
_EXIF_ORIENTATION = 0x0112
_PHOTOMETRIC, _WHITE_IS_ZERO = 0x0106, 0  # a tag of TIFF
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
# Control characters, and bytes of file names that are no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


# Pillow refuses whole PNG files with a megabyte of text or colour profile.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


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
    Of a file of several images it is the first.

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
    with _open(path) as file:
        return _header(file, printable(path))[:2]


def read_file(path: str) -> bytes:
    """Return a file's bytes.

    Raises:
        BrokenImageError: it cannot be read.
    """
    with _open(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise BrokenImageError(f"{printable(path)}: {error.strerror}") from None


def open_image(data: bytes, *, name: str = "image") -> EncodedImage:
    """Read the header of an image file's bytes; ``name`` is for messages.

    Raises:
        BrokenImageError: no image, or one with more pixels than Pillow accepts.
    """
    name = printable(name)
    return EncodedImage(data, name, *_header(io.BytesIO(data), name))


def printable(path: str) -> str:
    """Return a path on one line: control characters and bytes that are no UTF-8 are escaped."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), path)


def _open(path: str) -> IO[bytes]:
    try:
        # Opening a pipe waits for its writer, and some devices never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise BrokenImageError(f"{printable(path)}: a folder, pipe or device, and no file")
        return open(path, "rb")
    except (OSError, ValueError) as error:  # ValueError: no file can have this name.
        reason = error.strerror if isinstance(error, OSError) else error
        raise BrokenImageError(f"{printable(path)}: {reason}") from None


def _header(file: IO[bytes], name: str) -> tuple[int, int, str, bool]:
    """Return height, width, format and whether it is a plain JPEG."""
    try:
        with Image.open(file) as image:
            kind = str(image.format)
            if kind == "EPS":
                raise ValueError("PostScript, which is a program")
            if kind == "TIFF":
                image.load()  # Pillow turns a TIFF upright when it is loaded.
            width, height = image.size
            orientation = _orientation(image)
            plain = kind == "JPEG" and image.mode == "RGB" and orientation not in _TURNS
    except UnidentifiedImageError:
        raise BrokenImageError(f"{name}: no image, or of an unknown kind") from None
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
        return Image.fromarray(_to_8_bit(image)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> np.ndarray:
    """Scale whole numbers or floats to ``(H, W)`` uint8.

    Raises:
        ValueError: numbers above 65535.
    """
    values = np.asarray(image, dtype=np.float64)
    largest = values.max(initial=0, where=np.isfinite(values))
    if largest > _TOP_16:
        raise ValueError(f"its values reach {largest:g}; expected 65535 at most")
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else None
    if image.mode == "F" and largest < _TOP_FLOAT:
        top = 1.0
    else:
        # Only TIFF keeps 8-bit numbers in 32 bits; in 16 bits small numbers are a dark image.
        any_range = image.mode == "F" or (image.mode == "I" and tags is not None)
        top = 255.0 if any_range and largest <= 255 else _TOP_16
    values = np.nan_to_num(values, posinf=top, neginf=0).clip(0, top)
    if tags and image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = top - values  # Pillow does so for 8 bits alone.
    if image.mode.startswith("I"):
        values[values == image.info.get("transparency")] = top
    return (values * (255.0 / top)).round().astype(np.uint8)


def list_images(folder: str, others: Counter[str] | None = None) -> list[str]:
    """Return the paths of all images below ``folder``, sorted, without hidden files and folders.

    Links to folders are followed. Each folder is listed once, under its own path if that is below
    ``folder`` as well; so a loop of links ends. The log names folders that cannot be listed.

    Args:
        folder: a path.
        others: gets the number of the files that are no images by their names, by suffix.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"no image folder '{printable(folder)}'", code="missing-data")
    found: list[str] = []
    pending, seen = [folder], set()
    for top in pending:
        for parent, folders, files in os.walk(top, onerror=_warn_of):
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = [os.path.join(parent, name) for name in folders]
            pending += [path for path in paths if os.path.islink(path)]
            shown = [name for name in files if not name.startswith(".")]
            images = [name for name in shown if name.lower().endswith(IMAGE_SUFFIXES)]
            found += [os.path.join(parent, name) for name in images]
            if others is not None and len(images) < len(shown):
                left = set(shown).difference(images)
                others.update(os.path.splitext(name)[1].lower() for name in left)
    if not found:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise UserError(
            f"no images in '{printable(folder)}' (looked for {kinds} in all subfolders)",
            code="missing-data",
        )
    return sorted(found)


def _warn_of(error: OSError) -> None:
    folder = printable(error.filename)
    logger.warning("left out the folder '%s', which cannot be listed: %s", folder, error.strerror)
