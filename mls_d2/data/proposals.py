"""Object proposals of a dataset in one file, and the making of such a file image by image.

The content of the file (see :mod:`mls_d2.data.recipe_file`) is for each image its key (16 bytes),
height and width (uint16) and the checksum of its boxes (uint32), then ``N + 1`` offsets of boxes
(int64), and the boxes (4 x uint16: x0, y0, x1, y1).
"""

import array
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import msgspec
import numpy as np

from mls_d2.core.files import atomic_write, writing
from mls_d2.data.dataset_files import evenly_spaced
from mls_d2.data.images import BrokenImageError
from mls_d2.data.recipe_file import Count, RecipeFile, check_begun, header_bytes

_CHECKSUM = struct.Struct("<I")
_KEY_BYTES, _BOX_BYTES = 16, 8
_ROW = np.dtype([("key", f"V{_KEY_BYTES}"), ("size", "<u2", 2), ("checksum", "<u4")])
# Key, height, width, and the checksum of the boxes or, in a partial file, their number.
_IMAGE = struct.Struct(f"<{_KEY_BYTES}sHHI")
_SAMPLE = 32
LARGEST_SIDE = 2**16 - 1
"""Pixels; larger images have no proposals."""
NO_KEY = bytes(_KEY_BYTES)
"""Of an image that cannot be read."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the proposals of a dataset."""

    source: str  # digest of which images there are, in which order
    search: str  # name of the algorithm
    # Pixels to which the shorter side was reduced before the search; 0: not at all.
    short_side: Count
    min_side: Count  # pixels of the image; boxes with a shorter side are left out
    seed: Count  # of the order of an image's boxes


class _Header(msgspec.Struct, kw_only=True):
    recipe: Recipe
    images: Count
    boxes: Count
    index: str  # sha256 of rows and offsets


class Images(Protocol):
    """Images by position, such as those of :mod:`pretrain.sources`."""

    counts: np.ndarray

    def digest(self) -> str:
        """Return a digest of which images there are, in which order."""

    def name(self, position: int) -> str:
        """Return an image's name in messages."""

    def read(self, position: int) -> bytes:
        """Return an image's file, or raise BrokenImageError."""


class Proposals(RecipeFile):
    """The boxes of every image of a dataset, in a file that :class:`ProposalsWriter` made."""

    kind, magic, header = "proposals", b"mls_d2 proposals 1\n", _Header

    def open_content(self, file: IO[bytes], header: _Header) -> None:
        """Read the rows of the images and map the boxes into memory."""
        start = file.tell()
        index = file.read(_ROW.itemsize * header.images + 8 * (header.images + 1))
        expected, size = start + len(index) + _BOX_BYTES * header.boxes, os.path.getsize(self.path)
        if hashlib.sha256(index).hexdigest() != header.index or size != expected:
            raise self.damaged(f"{size} bytes that do not fit its header")
        self.digest = header.index
        self._rows = np.frombuffer(index, _ROW, header.images)
        self._offsets = np.frombuffer(index, "<i8", offset=_ROW.itemsize * header.images)
        self._boxes = np.zeros((0, 4), "<u2")
        if header.boxes:
            shape = (header.boxes, 4)
            self._boxes = np.memmap(self.path, "<u2", "r", start + len(index), shape)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def total(self) -> int:
        """The number of boxes of all images."""
        return len(self._boxes)

    def boxes(self, place: int) -> np.ndarray:
        """Return the boxes of an image: ``(R, 4)`` float32, R >= 0.

        They are x0, y0, x1, y1 in pixels of the upright image, edges (x1 and y1 are excluded), in a
        random order that is the same in every call.

        Args:
            place: of the image in the dataset, in [0, N).

        Raises:
            UserError: the file has been damaged since it was opened, or on disk.
        """
        row = self._rows[place]
        boxes = np.array(self._boxes[self._offsets[place] : self._offsets[place + 1]])
        if zlib.crc32(boxes.tobytes()) != row["checksum"]:
            raise self.damaged(f"the boxes of image {place} have changed")
        return boxes.astype(np.float32)

    def check(self, images: Images, recipe: Recipe) -> None:
        """Make sure that these are the proposals of a dataset, made as asked for.

        Names and order of all images are compared, and the bytes of a sample.

        Raises:
            UserError: they are of other images, of images that have changed, or made otherwise.
        """
        self.check_recipe(recipe)
        for place in evenly_spaced(range(len(self)), _SAMPLE):
            if self._rows[place]["key"].tobytes() != _key_of(images, place):
                raise self.changed(
                    f"image '{images.name(place)}' has changed since the proposals in "
                    f"'{self.path}' were made"
                )


class ProposalsWriter:
    """Makes the file of proposals image by image; what a killed process had written is kept.

    Until :meth:`finish` all is in ``path`` + ``.partial``. One process may write at a time.

    Args:
        path: of the file; its folder must exist.
        recipe: of the proposals.

    Attributes:
        done: images that are written.

    Raises:
        UserError: the partial file was begun with another recipe, or cannot be written.
    """

    def __init__(self, path: str, recipe: Recipe) -> None:
        self.path, self._recipe = path, recipe
        self._partial = Path(f"{path}.partial")
        self.done = 0
        with writing(self._partial):
            self._partial.touch()
            self._file = self._partial.open("r+b")
            self._begin()
            end = self._file.tell()
            for _, _, boxes in _records(self._file):
                self.done += 1
                end += _CHECKSUM.size + _IMAGE.size + len(boxes)
            self._file.truncate(end)
            self._file.seek(end)

    def _begin(self) -> None:
        """Write the recipe, or compare it with the one that is there."""
        line = self._file.readline()
        if not line.endswith(b"\n"):  # new, or killed at once
            self._file.seek(0)
            self._file.truncate()
            self._file.write(msgspec.json.encode(self._recipe) + b"\n")
        else:
            check_begun(str(self._partial), line, self._recipe)

    def append(self, key: bytes, size: tuple[int, int], boxes: np.ndarray) -> None:
        """Write the next image.

        Args:
            key: of its file, 16 bytes.
            size: height and width in pixels.
            boxes: ``(R, 4)`` x0, y0, x1, y1 in pixels, in [0, 65535].
        """
        record = _IMAGE.pack(key, *size, len(boxes)) + boxes.astype("<u2").tobytes()
        with writing(self._partial):
            self._file.write(_CHECKSUM.pack(zlib.crc32(record)) + record)
            self._file.flush()
        self.done += 1

    def finish(self) -> None:
        """Make the file of all images that were appended, and remove the partial one."""
        rows, counts = bytearray(), array.array("q", [0])
        self._rewind()
        for key, size, boxes in _records(self._file):
            rows += _IMAGE.pack(key, *size, zlib.crc32(boxes))
            counts.append(len(boxes) // _BOX_BYTES)
        offsets = np.cumsum(counts, dtype="<i8")
        index = bytes(rows) + offsets.tobytes()
        header = _Header(
            recipe=self._recipe,
            images=len(counts) - 1,
            boxes=int(offsets[-1]),
            index=hashlib.sha256(index).hexdigest(),
        )
        with atomic_write(self.path) as file:
            file.write(header_bytes(Proposals, header) + index)
            self._rewind()
            for _, _, boxes in _records(self._file):
                file.write(boxes)
        self.close()
        self._partial.unlink()

    def close(self) -> None:
        """Close the partial file, which stays."""
        with writing(self._partial):
            self._file.close()

    def _rewind(self) -> None:
        self._file.seek(0)
        self._file.readline()


def image_key(data: bytes) -> bytes:
    """Return the key of an image file: 16 bytes, which depend on its content alone."""
    return hashlib.blake2b(data, digest_size=_KEY_BYTES).digest()


def _records(file: IO[bytes]) -> Iterator[tuple[bytes, tuple[int, int], bytes]]:
    """Yield key, size and boxes of whole records, up to the first that is cut or damaged."""
    size = _CHECKSUM.size + _IMAGE.size
    while len(head := file.read(size)) == size:
        key, height, width, count = _IMAGE.unpack(head[_CHECKSUM.size :])
        boxes = file.read(_BOX_BYTES * count)
        checksum = zlib.crc32(boxes, zlib.crc32(head[_CHECKSUM.size :]))
        if _CHECKSUM.pack(checksum) != head[: _CHECKSUM.size]:
            return
        yield key, (height, width), boxes


def _key_of(images: Images, place: int) -> bytes:
    try:
        return image_key(images.read(place))
    except BrokenImageError:
        return NO_KEY
