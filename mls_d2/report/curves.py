"""Training curves from the ``metrics.json`` that Detectron2's JSONWriter writes."""

import contextlib
import dataclasses
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mls_d2.results.schema import RESULTS_FILE, LocatedResult, files_below

METRICS_FILE = "metrics.json"
"""The file name that the writers of both phases use."""
ENVIRONMENT_FILE = "environment.json"
"""What every run writes before its first step."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One logged quantity; both arrays have shape ``(P,)``, iterations rising."""

    iterations: np.ndarray
    values: np.ndarray


Curves = Mapping[str, Curve]
"""Metric name to curve, of one run."""


def read_curves(path: Path, only: str | None = None) -> Curves:
    """Read one ``metrics.json``, one JSON object per line; empty if it is missing or unusable.

    A run that was interrupted leaves a cut line, and one that was resumed may repeat iterations:
    lines without an iteration are skipped, and the later value of an iteration counts.

    Args:
        path: the file; it may be missing.
        only: the one metric to return; all by default.
    """
    if not path.is_file():
        return {}
    points: dict[str, dict[int, float]] = defaultdict(dict)
    skipped = 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        record = json_object(line)
        if not isinstance(record.get("iteration"), int):
            # A run that has not ended may be read while it writes its last line.
            skipped += number < len(lines)
            continue
        for name in record if only is None else (only,):
            value = record.get(name)
            if name != "iteration" and isinstance(value, int | float):
                with contextlib.suppress(OverflowError):  # An integer beyond the largest float.
                    points[name][record["iteration"]] = float(value)
    if skipped:
        logger.warning("%s: skipped %d unreadable lines", path, skipped)
    ordered = {name: sorted(values.items()) for name, values in points.items()}
    return {
        name: Curve(*map(np.array, zip(*pairs, strict=True))) for name, pairs in ordered.items()
    }


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the centred moving average of ``values``, shape ``(P,)``, over ``window`` points.

    Fewer at the ends; an even window is widened by one. Values that are not finite take no part:
    the result, shape ``(P,)``, is NaN if no finite value lies in the window.
    """
    kernel = np.ones(window // 2 * 2 + 1)
    half = window // 2
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), kernel)[half : half + len(values)]
    count = np.convolve(finite.astype(float), kernel)[half : half + len(values)]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pretraining_runs(folders: Iterable[Path], results: Iterable[LocatedResult]) -> dict[str, Path]:
    """Return the pretraining runs that belong to a report, in the order of paths.

    They are every folder below ``folders`` that has a ``metrics.json`` and no result, and the
    folders of the results' backbone files; only those that logged ``feature_std`` count, which
    every method does and no fine-tuning.

    Returns:
        Name of the folder, or the whole path if names repeat, to the folder. It starts with
        "synthetic" if a result or the run itself records that it was trained on generated scenes.
    """
    candidates: dict[Path, Path] = {}
    synthetic: set[Path] = set()
    # First, as links below them have clearer names than the folder that a run wrote to.
    for folder in folders:
        for path in files_below(folder, METRICS_FILE):
            if not (path.parent / RESULTS_FILE).exists():
                candidates.setdefault(path.parent.resolve(), path.parent)
                if json_file(path.with_name(ENVIRONMENT_FILE)).get("synthetic"):
                    synthetic.add(path.parent.resolve())
    for located in results:
        backbone = located.result.backbone
        folder = Path(backbone.file).parent
        if backbone.sha256:
            candidates.setdefault(folder.resolve(), folder)
        if backbone.synthetic:
            synthetic.add(folder.resolve())
    runs = [
        folder
        for folder in sorted(candidates.values())
        if read_curves(folder / METRICS_FILE, only="feature_std")
    ]
    names = [folder.name for folder in runs]
    labelled = {}
    for folder in runs:
        label = folder.name if names.count(folder.name) == 1 else str(folder)
        labelled[f"synthetic, {label}" if folder.resolve() in synthetic else label] = folder
    return labelled


def json_object(text: str) -> dict[str, Any]:
    """Return a JSON object; empty if it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(text)
        return parsed if isinstance(parsed, dict) else {}
    return {}


def json_file(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; empty if it is missing or holds none."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return json_object(path.read_text(encoding="utf-8"))
    return {}
