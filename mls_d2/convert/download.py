"""Downloads of checkpoints through iopath's PathManager: streamed, resumed and checked."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from typing import IO, Any
from urllib.parse import urlparse

from iopath.common.file_io import PathHandler, PathManager, file_lock, get_cache_dir
from tqdm import tqdm

from mls_d2.checkpoint.reading import LARGEST_BYTES
from mls_d2.core.errors import UserError
from mls_d2.core.files import atomic_write, sha256_of

_SCHEMES = ("http://", "https://", "file://")
_BLOCK = 1 << 18
_TIMEOUT_S = 30
_ATTEMPTS = 3
_BROKEN = (urllib.error.URLError, http.client.HTTPException, OSError)


def is_url(path: str) -> bool:
    """Whether ``path`` is a URL that :func:`fetch` takes."""
    return path.startswith(_SCHEMES)


def fetch(path: str, *, sha256: str | None = None, cache_dir: str | None = None) -> str:
    """Return the local path of a file, downloaded where ``path`` is a URL.

    A download that breaks goes on where it stopped, in the next attempt or the next call, if the
    server says that the file is still the same (``ETag`` or ``Last-Modified``); else it starts
    again. What is in the cache is not downloaded again.

    Args:
        path: a local path, or a URL with http, https or file.
        sha256: hex digest that the file must have; a download with another is removed.
        cache_dir: where downloads are kept; the default is iopath's, ``$FVCORE_CACHE`` or
            ``~/.torch/iopath_cache``.

    Raises:
        UserError: no answer, an error of the server, too large, cut off, or another digest.
    """
    local = _path_manager(cache_dir).get_local_path(path)
    if sha256 is not None and os.path.isfile(local):
        found = sha256_of(local)
        if found != sha256.lower():
            if path.startswith(("http://", "https://")):
                os.unlink(local)
            raise UserError(f"'{path}' has sha256 {found}, expected {sha256}: not that file")
    return str(local)


def _path_manager(cache_dir: str | None) -> PathManager:
    manager = PathManager()
    manager.register_handler(_FileHandler())
    manager.register_handler(_ResumingHandler(cache_dir))
    return manager


class _FileHandler(PathHandler):
    """Local files by URL."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["file://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return urllib.request.url2pathname(urlparse(path).path)


class _ResumingHandler(PathHandler):
    """iopath's own handler starts again from nothing, and trusts any length."""

    def __init__(self, cache_dir: str | None) -> None:
        super().__init__()
        self.cache_dir = cache_dir

    def _get_supported_prefixes(self) -> list[str]:
        return ["http://", "https://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = os.path.basename(urlparse(path).path) or "download"
        # Files of the same name from two places are two files.
        place = hashlib.sha256(path.encode()).hexdigest()[:16]
        target = os.path.join(get_cache_dir(self.cache_dir), "checkpoints", place, name)
        try:
            with file_lock(target):
                if force or not os.path.isfile(target):
                    _download(path, target)
        except PermissionError as error:
            raise UserError(f"cannot write to '{target}': {error.strerror}") from None
        return target


def _download(url: str, target: str) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _continue_download(url, target)
        except urllib.error.HTTPError as error:
            # 416: what is there already is as long as the file, or longer.
            if error.code != 416 or attempt == _ATTEMPTS:
                raise UserError(
                    f"'{url}': the server answers {error.code} {error.reason}"
                ) from None
            _remove(f"{target}.part")
        except _BROKEN as error:
            if attempt == _ATTEMPTS:
                reason = getattr(error, "reason", None) or error
                raise UserError(
                    f"'{url}' could not be downloaded ({reason}); run it again to go on"
                ) from None
        else:
            os.replace(f"{target}.part", target)
            _remove(f"{target}.tag")
            return


def _continue_download(url: str, target: str) -> None:
    part = f"{target}.part"
    tag = _read(f"{target}.tag")
    start = os.path.getsize(part) if tag and os.path.isfile(part) else 0
    request = urllib.request.Request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
        # The server sends the whole file where it is not the one that was begun.
        request.add_header("If-Range", tag)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        if answer.status != 206:
            start = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        if total is not None and total > LARGEST_BYTES:
            raise UserError(f"'{url}' has {total >> 30} GB, more than any ResNet needs")
        with atomic_write(f"{target}.tag", "w") as file:
            file.write(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
        with open(part, "ab" if start else "wb") as file:
            _copy(answer, file, url, start, total)


def _copy(answer: Any, file: IO[bytes], url: str, start: int, total: int | None) -> None:
    name = os.path.basename(urlparse(url).path)
    done = start
    with tqdm(
        total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=None
    ) as progress:
        while block := answer.read(_BLOCK):
            file.write(block)
            done += len(block)
            progress.update(len(block))
            if done > LARGEST_BYTES:
                raise UserError(f"'{url}' is longer than {LARGEST_BYTES >> 30} GB")
    if total is not None and done != total:
        raise http.client.IncompleteRead(b"", total - done)


def _read(path: str) -> str:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        return file.read()
    return ""


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
