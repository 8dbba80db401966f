"""Writing files so that they appear complete or not at all."""

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import cv2
import msgspec
import numpy as np
import yaml

from mls_d2.core.errors import UserError

_PROBE_BYTES = 1 << 20
_TEMPORARY = ".tmp-"


@contextmanager
def atomic_write(path: str, mode: str = "wb", *, durable: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file in the folder of ``path``; it gets that name when the block succeeds.

    Args:
        path: the file to write; its folder must exist.
        mode: ``"wb"`` or ``"w"`` (UTF-8).
        durable: wait for the disk before the file gets its name, so that a power cut cannot leave
            an empty file.

    Raises:
        UserError: the folder is missing, unwritable or full. ``path`` is then as it was before.
    """
    encoding = None if "b" in mode else "utf-8"
    folder, name = os.path.split(os.path.abspath(path))
    try:
        # Names of files have 255 bytes at most, and that of the temporary one is longer.
        handle, temporary = tempfile.mkstemp(prefix=f"{_TEMPORARY}{name[:32]}-", dir=folder)
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        with os.fdopen(handle, mode, encoding=encoding) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        # mkstemp makes files private; give them the permissions that open() would have given.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    except RuntimeError as error:
        # torch.save raises a RuntimeError of its zip writer, with the full disk as its context.
        cause = _os_error_behind(error)
        if cause is None and "PytorchStreamWriter" not in str(error):
            raise
        raise unwritable(path, cause or error) from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file, atomically."""
    with atomic_write(os.fspath(path)) as file:
        file.write(content)


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write RGB ``(H, W, 3)`` uint8, or one channel ``(H, W)`` of uint8 or uint16, by suffix."""
    pixels = np.ascontiguousarray(image[..., ::-1] if image.ndim == 3 else image)
    suffix = os.path.splitext(path)[1]
    options = (cv2.IMWRITE_JPEG_QUALITY, 92) if suffix == ".jpg" else ()
    done, content = cv2.imencode(suffix, pixels, options)
    assert done, f"OpenCV could not encode {pixels.shape} {pixels.dtype} as {suffix}"
    # Thousands of scenes would wait for the disk; they can be drawn again.
    with atomic_write(os.fspath(path), durable=False) as file:
        file.write(content.tobytes())


def write_json(path: str, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def check_writable(folder: str) -> None:
    """Create ``folder`` if needed and make sure that a megabyte can be written there.

    Temporary files of killed processes are removed.

    Raises:
        UserError: it cannot be created or written to, or the disk is full.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(folder):
            if name.startswith(_TEMPORARY):
                os.unlink(os.path.join(folder, name))
    except OSError as error:
        raise unwritable(folder, error) from None
    probe = os.path.join(folder, f"{_TEMPORARY}probe")
    try:
        with open(probe, "wb") as file:
            file.write(b"\0" * _PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(folder, error) from None
    finally:
        if os.path.exists(probe):
            os.unlink(probe)


def is_empty(folder: str | os.PathLike[str]) -> bool:
    """Return whether there is no such folder, or only temporary files of killed processes in it."""
    return not os.path.isdir(folder) or all(
        name.startswith(_TEMPORARY) for name in os.listdir(folder)
    )


def sha256_of(path: str) -> str:
    """Return the hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return sha256_of_rest(file)


def sha256_of_rest(file: IO[bytes]) -> str:
    """Return the hex digest of what an open file holds from here on."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


# PyYAML raises plain errors of Python for scalars such as 2020-13-45 or !!int x.
YAML_FAULTS = (
    yaml.YAMLError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading a damaged YAML file, or taking its content for a mapping, raises."""

JSON_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding damaged JSON with msgspec raises."""


def trim_metrics(path: str, iteration: int) -> None:
    """Remove the lines of a ``metrics.json`` that a run resumed at ``iteration`` will write again.

    ``path`` is a file of Detectron2's ``JSONWriter``, one object per line; it may be missing.
    """
    if not os.path.isfile(path):
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        kept = [line for line in file if _iteration_of(line) < iteration]
    with atomic_write(path, "w") as file:
        file.writelines(kept)


def _iteration_of(line: str) -> float:
    """Return the iteration of a line; infinity for lines of a killed process or damaged ones."""
    try:
        found = json.loads(line)["iteration"]
    except (LookupError, RecursionError, TypeError, ValueError):
        return math.inf
    return found if isinstance(found, int | float) else math.inf


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _os_error_behind(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of the system in the block into the one that ``path`` cannot be written."""
    try:
        yield
    except OSError as error:
        raise unwritable(os.fspath(path), error) from error


def unwritable(path: str, error: Exception) -> UserError:
    """Return the error that a file or folder cannot be written, for an error of the system."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, FileExistsError):
        reason = "it is a file, expected a folder"
    number = error.errno if isinstance(error, OSError) else errno.ENOSPC
    full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return UserError(
        f"cannot write to '{path}': {reason}; {'free space or ' * full}choose another folder",
        code="no-space" if full else "unwritable",
    )
