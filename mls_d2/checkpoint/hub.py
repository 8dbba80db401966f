"""Files of the Hugging Face Hub, or of HF_ENDPOINT: ``hf://org/name[@revision][/file]``."""

import functools
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from iopath.common.file_io import PathHandler

from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import sha256_of

SCHEME = "hf://"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"  # has the sha256 of the files beside it that were pushed by mls-hub
CARD_FILE = "README.md"
_PATH = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^/\s]+))?(?:/(\S+))?")
_REASONS = {
    "GatedRepoError": "its owner has to grant access; ask on its page and run `hf auth login`",
    "RepositoryNotFoundError": "no such repository, or a private one: check the name, or run "
    "`hf auth login`",
    "RevisionNotFoundError": "the repository has no such revision",
    "LocalEntryNotFoundError": "not in the cache, and the hub cannot be reached; unset "
    "HF_HUB_OFFLINE or check the connection",
    "EntryNotFoundError": "the repository has no such file",
}


def split_path(path: str) -> tuple[str, str | None, str]:
    """Return repository, revision (None: the default branch) and file (``model.safetensors``).

    Raises:
        UserError: another form.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise UserError(
            f"'{path}' is not a path of the hub; expected hf://org/name[@revision][/file]",
            code="bad-value",
        )
    return match[1], match[2], match[3] or WEIGHTS_FILE


@functools.lru_cache
def hub_file(path: str) -> str:
    """Return the local path of a file of the hub, downloaded unless the hub's cache has it.

    One process asks the hub once, so that all its reads are of one revision. The sha256 is compared
    if a ``config.json`` beside the file has it, as after :func:`mls_d2.hub.push`.

    Raises:
        UserError: another form of path, no such repository, revision or file, cut off, offline and
            not in the cache, another digest, or ``huggingface_hub`` is not installed.
    """
    repo, revision, name = split_path(path)
    hub = hub_library()
    get = functools.partial(hub.hf_hub_download, repo, revision=revision)
    expected = None
    with explained(path):
        try:
            local = str(get(filename=name))
        except hub.errors.RemoteEntryNotFoundError:
            hint = nearest(name, hub.HfApi().list_repo_files(repo, revision=revision))
            raise UserError(f"'{path}': no such file; {hint}", code="missing-file") from None
        # Repositories of other projects have no such entry, or no config.
        with suppress(hub.errors.EntryNotFoundError, ValueError):
            if name != CONFIG_FILE:
                expected = digest_in(json.loads(Path(get(filename=CONFIG_FILE)).read_bytes()), name)
    if expected is None or (found := sha256_of(local)) == expected:
        return local
    os.unlink(os.path.realpath(local))  # Else it would not be downloaded again.
    raise UserError(
        f"'{path}' has sha256 {found}, expected {expected} by its {CONFIG_FILE}; removed from the "
        "cache, try again",
        code="wrong-digest",
    )


def digest_in(config: Any, file: str) -> str | None:
    """Return the sha256 that the content of a ``config.json`` has for a file beside it."""
    digests = config.get("sha256") if isinstance(config, dict) else None
    return digests.get(file) if isinstance(digests, dict) else None


def hub_library() -> Any:
    """Import ``huggingface_hub``.

    Raises:
        UserError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise UserError(
            f"{SCHEME} needs huggingface_hub: pip install 'mls_d2[hub]'", code="missing-package"
        ) from None
    return huggingface_hub


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn what ``huggingface_hub`` raises in the block into a :class:`UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    # Its errors, and those of the file system, of httpx or requests by its version, and of Xet.
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        known = next((reason for name, reason in _REASONS.items() if name in kinds), "")
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = known or f"{lines[0] if lines else kinds[0]}; run it again"
        code = "missing-file" if known else "download-failed"
        raise UserError(f"'{path}': {reason}", code=code) from None


class HubHandler(PathHandler):
    """Lets Detectron2's ``PathManager``, and so its own checkpointer, take ``hf://`` paths."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return hub_file(path)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return open(hub_file(path), mode, buffering)
