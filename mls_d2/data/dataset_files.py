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
    origin = f" (DETECTRON2_DATASETS={value})" if value else " (DETECTRON2_DATASETS is not set)"
    if not os.path.abspath(absent[0]).startswith(os.path.join(os.path.abspath(root), "")):
        origin = ""  # a dataset of its own place
    if origin and not os.path.isdir(root):
        message = f"dataset '{name}': no folder '{root}'{origin}; set it to the datasets' folder"
    else:
        message = (
            f"dataset '{name}' is incomplete: {len(absent)} of {total} {what} are missing"
            f"{origin}:{listed(absent)}"
        )
    return UserError(message, code="missing-data")


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
