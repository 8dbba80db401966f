"""The one place that finds weights: local files, URLs with pooch and a cache, and the hub's."""

import hashlib
import logging
import os
import re
import urllib.request
from urllib.parse import urlparse

import pooch
import requests
from iopath.common.file_io import get_cache_dir
from tqdm import tqdm

from mls_d2.checkpoint.hub import SCHEME, hub_file
from mls_d2.checkpoint.reading import check_exists, refuse_what_is_no_checkpoint
from mls_d2.core.errors import UserError
from mls_d2.core.files import sha256_of

_TIMEOUT_S = 30
_ATTEMPTS = 3


def is_url(path: str) -> bool:
    """Whether ``path`` is a URL that :func:`fetch` takes."""
    return path.startswith(("http://", "https://", "file://", SCHEME))


def fetch(path: str, *, sha256: str | None = None, cache_dir: str | None = None) -> str:
    """Return the local path of a file, downloaded if ``path`` is a URL.

    What is in the cache is not downloaded again. A download appears there complete or not at all:
    if it is cut off, it starts again, at most three times.

    Args:
        path: a local path, a URL with http, https or file, or ``hf://org/name[@revision][/file]``.
        sha256: hex digest that the file must have; a download with another is removed.
        cache_dir: of downloads; the default is iopath's, ``$FVCORE_CACHE`` or
            ``~/.torch/iopath_cache``. The hub has its own, ``$HF_HOME``.

    Raises:
        UserError: no answer, an error of the server, cut off, a web page instead of a file,
            another digest, or for the hub what :func:`mls_d2.checkpoint.hub.hub_file` refuses.
    """
    if path.startswith("file://"):
        return _checked(path, urllib.request.url2pathname(urlparse(path).path), sha256)
    if path.startswith(SCHEME):
        return _checked(path, hub_file(path), sha256)
    if not is_url(path):
        if "://" in path and not os.path.exists(path):
            raise UserError(
                f"'{path}' has a scheme that is not known; expected a file, http://, https://, "
                "file:// or hf:// (detectron2:// is https://dl.fbaipublicfiles.com/detectron2/)",
                code="bad-value",
            )
        return _checked(path, path, sha256)
    name = os.path.basename(urlparse(path).path) or "download"
    # Files of the same name from two places are two files.
    place = hashlib.sha256(path.encode()).hexdigest()[:16]
    folder = os.path.join(get_cache_dir(cache_dir), "checkpoints", place)
    local = _download(path, folder, name)
    try:
        refuse_what_is_no_checkpoint(local)
        return _checked(path, local, sha256)
    except UserError as error:
        os.unlink(local)
        raise UserError(f"'{path}': {error}", code=error.code) from None


def expected_digest(path: str, given: str | None) -> str | None:
    """Return the digest that a file must have.

    Args:
        path: the file or URL.
        given: 64 hex digits, a file of ``sha256sum`` with a line for its name, or None.

    Raises:
        UserError: neither of these.
    """
    if given is None or re.fullmatch(r"[0-9a-fA-F]{64}", given):
        return given
    if not os.path.isfile(given):
        raise UserError(
            f"--sha256 is '{given}', expected 64 hex digits, or a file written by `sha256sum`",
            code="bad-value",
        )
    name = os.path.basename(urlparse(path).path if is_url(path) else path)
    with open(given, encoding="utf-8") as file:
        for digest, _, other in (line.partition(" ") for line in file):
            if os.path.basename(other.strip().lstrip("*")) == name:
                return digest
    raise UserError(f"'{given}' has no line for '{name}'", code="bad-value")


def _checked(path: str, local: str, expected: str | None) -> str:
    if expected is not None:
        check_exists(local)
        found = sha256_of(local)
        if found != expected.lower():
            raise UserError(
                f"'{path}' has sha256 {found}, expected {expected}: not that file",
                code="wrong-digest",
            )
    return local


def _download(url: str, folder: str, name: str) -> str:
    pooch.get_logger().setLevel(logging.WARNING)
    problem: Exception | None = None
    for _ in range(_ATTEMPTS):
        with tqdm(total=1, unit="B", unit_scale=True, desc=name, disable=None) as progress:
            get = pooch.HTTPDownloader(progressbar=progress, timeout=_TIMEOUT_S)
            try:
                return str(pooch.retrieve(url, None, name, folder, downloader=get))
            except requests.RequestException as error:
                problem = error
            except OSError as error:
                message = f"cannot write to '{folder}': {error.strerror}; choose another folder"
                raise UserError(message, code="no-space") from None
    raise UserError(
        f"'{url}' could not be downloaded ({problem}); check the URL, or run it again",
        code="download-failed",
    )
