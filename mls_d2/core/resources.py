"""The project's files that are not modules: tools, suites and configs, in a clone or installed."""

import os
from pathlib import Path

from mls_d2.core.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parent.parent
# Where pyproject.toml installs tools, suites, transfer_configs and pretrain/configs.
_INSTALLED = _PACKAGE / "files"
_CONFIGS = ("pretrain/configs", "transfer_configs")


def checkout() -> Path | None:
    """Return the clone that this code is run from; None if it was installed without it."""
    return None if _INSTALLED.is_dir() else _PACKAGE.parent


def root() -> Path:
    """Return the folder of ``tools``, ``suites``, ``transfer_configs`` and ``pretrain/configs``."""
    return checkout() or _INSTALLED


def find_config(given: str) -> str:
    """Return the path of a config: ``given`` if it is a path, or that of the project's config.

    Args:
        given: a path, or the name of a file below ``pretrain/configs`` or ``transfer_configs``,
            with or without ``.yaml``.

    Raises:
        UserError: neither; names the nearest.
    """
    return _find(given, "config", _CONFIGS)


def find_suite(given: str) -> str:
    """Return the path of a suite: as :func:`find_config`, of the files in ``suites``.

    Raises:
        UserError: neither a path nor a name; names the nearest.
    """
    return _find(given, "suite", ("suites",))


def _named(folders: tuple[str, ...]) -> dict[str, Path]:
    """Return the YAML files below some folders of the project by their names."""
    return {path.stem: path for folder in folders for path in (root() / folder).rglob("*.yaml")}


def _find(given: str, kind: str, folders: tuple[str, ...]) -> str:
    if os.path.isfile(given):
        return given
    if os.path.dirname(given) and os.path.isdir(given):
        message = f"'{given}' is a folder, expected a {kind} file{_inside(given)}"
        raise UserError(message, code="missing-file")
    if os.path.dirname(given):
        raise UserError(f"no {kind} file '{given}'{_neighbours(given)}", code="missing-file")
    known, name = _named(folders), given.removesuffix(".yaml")
    if name not in known:
        raise UserError(
            f"no {kind} file '{given}' here, and the project has no {kind} '{name}'; "
            f"{nearest(name, known)}",
            code="missing-file",
        )
    return str(known[name])


def _neighbours(path: str) -> str:
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        return f" (there is no folder '{folder}' either)"
    names = _yaml_files(folder)
    return f"; {nearest(name, names)}" if names else ""


def _inside(folder: str) -> str:
    names = _yaml_files(folder)
    return f"; it holds {', '.join(sorted(names)[:3])}" if names else ""


def _yaml_files(folder: str) -> list[str]:
    paths = Path(folder).iterdir()
    return [path.name for path in paths if path.suffix in (".yaml", ".yml") and path.is_file()]
