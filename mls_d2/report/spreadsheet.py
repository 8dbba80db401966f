"""All results as one CSV file, one row a run, for other programs to read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from mls_d2.report.groups import Group, shown_metrics
from mls_d2.results.schema import LocatedResult


def results_csv(groups: Sequence[Group]) -> str:
    """Return CSV text: a header, then one line a run.

    Rows with the same number in column ``group`` may be compared. Numbers that were not measured
    are empty.
    """
    metrics = shown_metrics(run.result for group in groups for run in group.runs)
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for number, group in enumerate(groups, start=1):
        for row in group.rows:
            for run in row.runs:
                record = {"group": str(number), "row": row.label, **_record(run, metrics)}
                if writer is None:
                    writer = csv.DictWriter(text, list(record), lineterminator="\n")
                    writer.writeheader()
                writer.writerow(record)
    return text.getvalue()


def _record(run: LocatedResult, metrics: Sequence[str]) -> dict[str, str]:
    result = run.result
    record = {
        "task": result.task,
        "preset": result.preset,
        "method": result.method,
        "seed": str(result.seed),
        "dataset": result.dataset["name"],
        "synthetic": str(result.dataset["synthetic"]).lower(),
        "backbone": result.backbone["file"],
        "backbone_sha256": result.backbone["sha256"],
        "images_per_s": _number(result.images_per_s),
        "wall_time_s": _number(result.wall_time_s),
        "peak_memory_mb": _number(result.peak_memory_mb),
        "device": result.device["kind"],
        "device_count": str(result.device["count"]),
        "finished": result.finished,
        "result": str(run.path),
    }
    for metric in metrics:
        task, _, name = metric.partition(".")
        record[metric] = _number(result.metrics.get(task, {}).get(name, math.nan))
    return record


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""
