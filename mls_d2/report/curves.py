"""Training curves from the ``metrics.json`` that Detectron2's JSONWriter writes."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mls_d2.results.schema import RESULTS_FILE, LocatedResult, files_below

METRICS_FILE = "metrics.json"
"""The file name that the writers of both phases use."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One logged quantity; both arrays have shape ``(P,)``, iterations rising."""

    iterations: np.ndarray
    values: np.ndarray


def read_curves(path: Path, only: str | None = None) -> Mapping[str, Curve]:
    """Read one ``metrics.json``: one JSON object a line, each with ``"iteration"``.

    A run that was interrupted leaves a cut line, and one that was resumed may repeat iterations:
    lines that are not such objects are skipped, and the later value of an iteration counts.

    Args:
        path: the file; it may be missing.
        only: the one metric to return; all by default.

    Returns:
        Metric name to curve; empty if the file does not exist or holds nothing usable.
    """
    if not path.is_file():
        return {}
    points: dict[str, dict[int, float]] = defaultdict(dict)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = _records(lines)
    for record in records:
        if record is None:
            continue
        iteration = record["iteration"]
        values = record if only is None else {only: record.get(only)}
        for name, value in values.items():
            if name != "iteration" and isinstance(value, int | float):
                points[name][iteration] = float(value)
    # A run that is still going may be caught writing its last line.
    skipped = records[:-1].count(None)
    if skipped:
        logger.warning("%s: skipped %d unreadable lines", path, skipped)
    return {name: _curve(values) for name, values in points.items()}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the centred moving average over ``window`` points, fewer at the ends.

    Args:
        values: shape ``(P,)``; values that are not finite take no part.
        window: at least 1; an even window is widened by one.

    Returns:
        Shape ``(P,)``; NaN where no finite value lies in the window.
    """
    kernel = np.ones(window // 2 * 2 + 1)
    half = window // 2
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), kernel)[half : half + len(values)]
    count = np.convolve(finite.astype(float), kernel)[half : half + len(values)]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pretraining_folders(
    folders: Iterable[Path], results: Iterable[LocatedResult]
) -> dict[Path, Mapping[str, Curve]]:
    """Find the pretraining runs that belong to a report, with their curves.

    They are every folder below ``folders`` that has a ``metrics.json`` and no result, and the
    folders of the results' backbone files; only those that logged ``feature_std`` count, which
    every method does and no fine-tuning.

    Returns:
        Folder to its curves, in the order of the paths.
    """
    candidates: dict[Path, Path] = {}
    # First, as links below them have names that say more than the folder that a run wrote to.
    for folder in folders:
        for path in files_below(folder, METRICS_FILE):
            if not (path.parent / RESULTS_FILE).exists():
                candidates.setdefault(path.parent.resolve(), path.parent)
    for located in results:
        if not located.result.backbone["sha256"]:
            continue
        folder = Path(located.result.backbone["file"]).parent
        candidates.setdefault(folder.resolve(), folder)
    found = {folder: read_curves(folder / METRICS_FILE) for folder in sorted(candidates.values())}
    return {folder: curves for folder, curves in found.items() if "feature_std" in curves}


def _records(lines: Sequence[str]) -> list[dict[str, Any] | None]:
    """Parse lines; None for each that is no record."""
    try:
        # All at once where none is cut: that is three times as fast.
        values = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError):
        values = []
    if len(values) == len(lines) and all(map(_is_record, values)):
        return values
    return [_record(line) for line in lines]


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("iteration"), int)


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


def _curve(points: Mapping[int, float]) -> Curve:
    iterations = sorted(points)
    return Curve(np.array(iterations), np.array([points[item] for item in iterations]))
