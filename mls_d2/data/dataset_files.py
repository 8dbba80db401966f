"""Where datasets lie, and messages about files that are missing."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mls_d2.core.errors import UserError

_SHOWN = 5


def datasets_root() -> str:
    """Return the folder below which Detectron2 looks for its builtin datasets."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def dataset_table(section: str) -> dict[str, dict[str, Any]]:
    """Return a section of datasets.yaml: what datasets hold, and where to get them."""
    text = Path(__file__).with_name("datasets.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)[section]


def explain_missing(name: str, absent: Sequence[str], total: int, what: str) -> UserError:
    """Return the error that ``absent`` of ``total`` files of a dataset are missing."""
    root = datasets_root()
    value = os.getenv("DETECTRON2_DATASETS")
    origin = f"DETECTRON2_DATASETS={value}" if value else "DETECTRON2_DATASETS is not set"
    # Datasets that users register may lie elsewhere.
    below = os.path.abspath(absent[0]).startswith(os.path.join(os.path.abspath(root), ""))
    if below and not os.path.isdir(root):
        message = f"dataset '{name}': no folder '{root}' ({origin}); set it to the datasets' folder"
    else:
        message = (
            f"dataset '{name}' is incomplete: {len(absent)} of {total} {what} are missing"
            f"{f' ({origin})' * below}:{listed(absent)}"
        )
        message += _on_another_level(root, absent[0]) if below else ""
    return UserError(message, code="missing-data")


def _on_another_level(root: str, path: str) -> str:
    """Return a hint if a file or folder that is missing below ``root`` lies a level off."""
    parts = os.path.relpath(os.path.abspath(path), os.path.abspath(root)).split(os.sep)
    for place in range(len(parts)):
        top, rest = os.path.join(root, *parts[:place]), parts[place:]
        found = [(os.path.join(folder, *rest), "low") for folder in folders_in(top)]
        if len(rest) > 1:
            found.append((os.path.join(top, *rest[1:]), "high"))
        for other, off in found:
            if os.path.exists(other):
                return f"\nThere is '{other}' instead: one level too {off}"
    return ""


def folders_in(path: str) -> list[str]:
    """Return the sorted paths of the folders in a folder; none if it cannot be listed."""
    try:
        return sorted(item.path for item in os.scandir(path) if item.is_dir())
    except OSError:
        return []


def listed(lines: Sequence[str]) -> str:
    """Return the first lines, each on a line of its own."""
    return "".join(f"\n  {line}" for line in [*lines[:_SHOWN], *["…"][: len(lines) > _SHOWN]])


def evenly_spaced(items: Sequence[Any], number: int) -> list[Any]:
    """Return up to ``number`` items, spread evenly from the first to the last."""
    places = np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)
    return [items[place] for place in places]


def missing_of(paths: Sequence[str]) -> list[str]:
    """Return the files that are missing, by one listing per folder instead of a look per file."""
    present = {folder: _present(folder) for folder in {os.path.dirname(path) for path in paths}}
    return [path for path in paths if os.path.basename(path) not in present[os.path.dirname(path)]]


def _present(folder: str) -> set[str]:
    """Return the names in a folder, without links to nowhere."""
    if not os.path.isdir(folder):
        return set()
    with os.scandir(folder) as entries:
        return {item.name for item in entries if not item.is_symlink() or os.path.exists(item.path)}
