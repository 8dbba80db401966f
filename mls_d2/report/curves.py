"""Training curves from the ``metrics.json`` that Detectron2's JSONWriter writes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from mls_d2.results.schema import RESULTS_FILE, LocatedResult, files_below

METRICS_FILE = "metrics.json"
"""The file name that the writers of both phases use."""

ENVIRONMENT_FILE = "environment.json"
"""The facts of a run, in its folder."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One logged quantity; both arrays have shape ``(P,)``, iterations rising."""

    iterations: np.ndarray
    values: np.ndarray


Curves = Mapping[str, Curve]
"""Metric name to curve, of one run."""


@dataclasses.dataclass(frozen=True)
class PretrainingRun:
    """A pretraining run that belongs to a report."""

    folder: Path
    curves: Curves
    synthetic: bool
    """Whether it is recorded as trained on generated scenes."""


def read_curves(path: Path, only: str | None = None) -> Curves:
    """Read one ``metrics.json``: one JSON object per line, each with ``"iteration"``.

    A run that was interrupted leaves a cut line, and one that was resumed may repeat iterations:
    lines that are not such objects are skipped, and the later value of an iteration counts.

    Args:
        path: the file; it may be missing.
        only: the one metric to return; all by default.

    Returns:
        Metric name to curve; empty if the file does not exist or has nothing usable.
    """
    if not path.is_file():
        return {}
    points: dict[str, dict[int, float]] = defaultdict(dict)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    skipped = []
    for number, line in enumerate(lines):
        record = None
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
        if not isinstance(record, dict) or not isinstance(record.get("iteration"), int):
            skipped.append(number)
            continue
        iteration = record.pop("iteration")
        for name, value in record.items() if only is None else [(only, record.get(only))]:
            if isinstance(value, int | float):
                points[name][iteration] = float(value)
    # A run that has not ended may be read while it writes its last line.
    if skipped and skipped != [len(lines) - 1]:
        count = len(skipped) - (skipped[-1] == len(lines) - 1)
        logger.warning("%s: skipped %d unreadable lines", path, count)
    return {
        name: Curve(*map(np.array, zip(*sorted(values.items()), strict=True)))
        for name, values in points.items()
    }


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the centred moving average over ``window`` points, fewer at the ends.

    Args:
        values: shape ``(P,)``; values that are not finite take no part.
        window: at least 1; an even window is widened by one.

    Returns:
        Shape ``(P,)``; NaN if no finite value lies in the window.
    """
    kernel = np.ones(window // 2 * 2 + 1)
    half = window // 2
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), kernel)[half : half + len(values)]
    count = np.convolve(finite.astype(float), kernel)[half : half + len(values)]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pretraining_runs(
    folders: Iterable[Path], results: Iterable[LocatedResult]
) -> list[PretrainingRun]:
    """Return the pretraining runs that belong to a report, in the order of their paths.

    They are every folder below ``folders`` that has a ``metrics.json`` and no result, and the
    folders of the results' backbone files; only those that logged ``feature_std`` count, which
    every method does and no fine-tuning.
    """
    candidates: dict[Path, Path] = {}
    synthetic: set[Path] = set()
    # First, as links below them have clearer names than the folder that a run wrote to.
    for folder in folders:
        for path in files_below(folder, METRICS_FILE):
            if not (path.parent / RESULTS_FILE).exists():
                candidates.setdefault(path.parent.resolve(), path.parent)
    for located in results:
        backbone = located.result.backbone
        folder = Path(backbone.file).parent
        if backbone.sha256:
            candidates.setdefault(folder.resolve(), folder)
        if backbone.synthetic:
            synthetic.add(folder.resolve())
    found = []
    for real, folder in sorted(candidates.items(), key=lambda item: item[1]):
        curves = read_curves(folder / METRICS_FILE)
        if "feature_std" in curves:
            found.append(PretrainingRun(folder, curves, real in synthetic or _recorded(folder)))
    return found


def _recorded(folder: Path) -> bool:
    """Whether the facts of a run say that its images are generated."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return bool(json.loads((folder / ENVIRONMENT_FILE).read_text()).get("synthetic"))
    return False
