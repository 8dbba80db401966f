"""Backbones in repositories of the Hugging Face Hub, in folders, and on file servers.

Each is a folder of three files: the weights (safetensors), the model card, and ``config.json`` with
the pretraining metadata and the sha256 of the weights.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import requests

from mls_d2.checkpoint.backbone_file import check_values, read_backbone, sha256, write_backbone
from mls_d2.checkpoint.download import fetch
from mls_d2.checkpoint.hub import (
    CARD_FILE,
    CONFIG_FILE,
    SCHEME,
    WEIGHTS_FILE,
    digest_in,
    explained,
    hub_library,
    split_path,
)
from mls_d2.core.errors import UserError
from mls_d2.core.files import check_writable, sha256_of, write_bytes, write_json
from mls_d2.hub.card import LIBRARY, model_card

_TIMEOUT_S = 30
_SERVERS = ("http://", "https://")


def push(path: str, dst: str, *, licence: str, results: Iterable[Path] = ()) -> str:
    """Write a backbone, its card and its config to a new folder or a repository of the hub.

    Args:
        path: a backbone file; the ``metrics.json`` of its run beside it tells the cost.
        dst: a folder that does not exist, or ``hf://org/name[@branch]``; the repository is made.
        licence: of the weights, by the hub's identifier, for example "apache-2.0".
        results: folders; the results below them that started from this backbone are in the card.

    Returns:
        The sha256 of the pushed weights.

    Raises:
        UserError: not a backbone file, a folder that exists or cannot be written, or the hub
            refuses.
    """
    on_hub = dst.startswith(SCHEME)
    if dst.startswith(_SERVERS):
        raise UserError(
            f"'{dst}' is only read; push to a folder, and copy it to the server", code="bad-value"
        )
    with _new_folder(None if on_hub else dst) as folder:
        digest = _write(folder, path, dst, licence, results)
        if on_hub:
            _upload(folder, dst)
    return digest


def pull(src: str, dst: str) -> str:
    """Copy a backbone, its card and its config to a new folder, if the weights' sha256 is right.

    Args:
        src: ``hf://org/name[@revision]``, or the folder or URL of a pushed backbone.
        dst: a folder that does not exist.

    Returns:
        The sha256 of the weights.

    Raises:
        UserError: no such backbone, cut off, another sha256, or ``dst`` exists or cannot be
            written.
    """
    with _new_folder(dst) as folder:
        config = _config(src)
        expected = str(digest_in(config, WEIGHTS_FILE))
        shutil.copyfile(fetch(f"{src}/{WEIGHTS_FILE}", sha256=expected), folder / WEIGHTS_FILE)
        write_bytes(folder / CARD_FILE, _read(src, CARD_FILE))
        write_json(str(folder / CONFIG_FILE), config)
    return expected


def list_backbones(source: str) -> list[tuple[str, dict[str, Any]]]:
    """Return where each backbone is that was pushed below ``source``, and its config.

    Args:
        source: ``hf://org``, a folder, or the URL of a server that lists its folders.

    Raises:
        UserError: none there, or no answer.
    """
    found = []
    for place in _places(source):
        try:
            found.append((place, _config(place)))
        except UserError as error:
            if error.code != "missing-file":
                raise
    if not found:
        raise UserError(f"no backbone was pushed below '{source}'", code="missing-file")
    return found


@contextmanager
def _new_folder(dst: str | None) -> Iterator[Path]:
    """Yield a folder that gets the name ``dst`` if the block succeeds; None: it is temporary."""
    parent = None if dst is None else os.path.dirname(os.path.abspath(dst))
    if dst is not None and parent is not None:
        if os.path.lexists(dst):
            raise UserError(f"'{dst}' exists; remove it or take another name", code="file-exists")
        check_writable(parent)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=parent) as temporary:
        folder = Path(temporary, "backbone")
        folder.mkdir()
        yield folder
        if dst is not None:
            os.rename(folder, dst)


def _write(folder: Path, path: str, dst: str, licence: str, results: Iterable[Path]) -> str:
    file = read_backbone(path)
    weights = folder / WEIGHTS_FILE
    stored = {n: v for n, v in file.state_dict.items() if not n.endswith("num_batches_tracked")}
    check_values(stored, path)
    try:
        write_backbone(str(weights), stored, file.info)
    except ValueError as error:
        message = f"'{path}' is not a backbone file: {error}; convert it with tools/convert.py"
        raise UserError(message, code="wrong-weights") from None
    digests = [sha256_of(str(weights)), sha256(path)]
    name = dst if dst.startswith(SCHEME) else f"{Path(dst).name}/{WEIGHTS_FILE}"
    run = Path(fetch(path)).parent
    card = model_card(name, file.info, digests=digests, run=run, licence=licence, results=results)
    config = {
        "library_name": LIBRARY,
        "license": licence,
        "sha256": {WEIGHTS_FILE: digests[0]},
        "pushed_from_sha256": digests[1],
        "pretrain": file.info,
    }
    write_bytes(folder / CARD_FILE, card.encode())
    write_json(str(folder / CONFIG_FILE), config)
    return digests[0]


def _upload(folder: Path, dst: str) -> None:
    repo, revision, _ = split_path(dst)
    hub = hub_library()
    with explained(dst):
        api = hub.HfApi()
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message=f"A backbone of {LIBRARY}",
        )


def _config(place: str) -> dict[str, Any]:
    try:
        config = json.loads(_read(place, CONFIG_FILE))
    except ValueError:
        config = None
    if digest_in(config, WEIGHTS_FILE) is None:
        raise UserError(
            f"the {CONFIG_FILE} of '{place}' has no sha256 of {WEIGHTS_FILE}: it was not pushed by "
            "mls-hub, or it is damaged",
            code="missing-file",
        )
    return config


def _read(place: str, name: str) -> bytes:
    """Return a small file's content; never from a cache of ours, because it may change."""
    if place.startswith(_SERVERS):
        return _get(f"{place}/{name}")
    try:
        return Path(fetch(f"{place}/{name}")).read_bytes()
    except OSError as error:
        raise UserError(
            f"'{place}' has no readable {name} ({error.strerror}); give the folder, the URL or the "
            "hf:// path of a pushed backbone; mls-hub list shows those below one",
            code="missing-file",
        ) from None


def _get(url: str) -> bytes:
    try:
        answer = requests.get(url, timeout=_TIMEOUT_S)
        answer.raise_for_status()
    except requests.RequestException as error:
        missing = error.response is not None and error.response.status_code == 404
        code = "missing-file" if missing else "download-failed"
        raise UserError(f"'{url}': {error}; check the URL, or run it again", code=code) from None
    return answer.content


def _places(source: str) -> list[str]:
    if source.startswith(SCHEME):
        hub = hub_library()
        with explained(source):
            models = hub.HfApi().list_models(author=source[len(SCHEME) :], filter=LIBRARY)
            return sorted(f"{SCHEME}{model.id}" for model in models)
    if source.startswith(_SERVERS):
        links = re.findall(
            r'href="(?:\./)?([^"/?#]+)/"', _get(f"{source}/").decode("utf-8", "replace")
        )
        return sorted(f"{source}/{unquote(link)}" for link in links if link != "..")
    return sorted(str(path.parent) for path in Path(source).glob(f"*/{CONFIG_FILE}"))
