"""The cells of every table, as text; the writers only lay them out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mls_d2.report import published
from mls_d2.report.groups import Group, Row, metric_label
from mls_d2.report.published_file import builtin_published
from mls_d2.report.results import Result, pretraining_datasets
from mls_d2.report.statistics import Difference, Summary, difference, summarize

ABSENT = "–"
"""What stands for a number that was not measured."""

BASELINE = "random"
"""The method that differences are taken to."""

_SHOWN_VERSIONS = ("python", "torch", "torchvision", "detectron2", "mls_d2")


@dataclasses.dataclass(frozen=True)
class Table:
    """A header and rows of the same length, as text without markup."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def format_summary(summary: Summary, *, digits: int = 2) -> str:
    """Return ``"40.12 ± 0.20"``; without the spread for a single run, a dash for none."""
    if not math.isfinite(summary.mean):
        return ABSENT
    mean = f"{summary.mean:.{digits}f}"
    return f"{mean} ± {summary.std:.{digits}f}" if math.isfinite(summary.std) else mean


def format_difference(value: Difference) -> str:
    """Return ``"+1.20 ± 0.30"``, a dash where one side has no runs."""
    text = format_summary(Summary(value.mean, value.std, value.n))
    return f"+{text}" if value.mean >= 0 else text


def format_duration(seconds: float) -> str:
    """Return ``"45 s"``, ``"3 min 05 s"`` or ``"12 h 07 min"``."""
    if not math.isfinite(seconds):
        return ABSENT
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    minutes, rest = divmod(total, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def not_comparable(group: Group) -> str:
    """Say why published numbers must not stand beside ``group``; empty where they may."""
    return published.not_comparable(group.rows[0].first, builtin_published())


def results_table(group: Group) -> Table:
    """Return one row a method: every metric and the differences to random initialisation.

    The published numbers stand beside where ``group`` is comparable with them.
    """
    baseline = group.row(BASELINE)
    metrics, headline = group.metrics, group.headline
    header = ["method", "pretraining", "n"]
    for metric in metrics:
        header.append(metric_label(metric))
        if baseline and metric in headline:
            header.append(f"{metric_label(metric)} − {BASELINE}")
    comparable = not not_comparable(group)
    if comparable:
        header += [f"published {metric_label(metric)}" for metric in headline]
    rows = []
    for row in group.rows:
        cells = [row.label, pretraining_text(row.first), str(len(row.runs))]
        for metric in metrics:
            cells.append(format_summary(summary_of(row, metric)))
            if baseline and metric in headline:
                cells.append(difference_cell(row, baseline, metric))
        rows.append(cells + (_published_cells(group, row) if comparable else []))
    return Table(header, rows)


def cost_table(group: Group) -> Table:
    """Return one row a method: speed, time and memory, mean over its runs."""
    rows = []
    for row in group.rows:
        runs = [run.result for run in row.runs]
        speed = summarize([run.images_per_s for run in runs])
        seconds = summarize([run.wall_time_s for run in runs])
        memory = summarize([run.peak_memory_mb for run in runs])
        cells = [row.label, format_summary(speed, digits=1), format_duration(seconds.mean)]
        rows.append([*cells, format_summary(memory, digits=0)])
    return Table(["method", "training images/s", "wall time", "peak memory (MiB)"], rows)


def provenance_table(group: Group) -> Table:
    """Return one row a run: where its weights and its numbers come from."""
    header = ["method", "seed", "backbone", "sha256", "finished (UTC)", "versions", "result"]
    rows = []
    for row in group.rows:
        for run in row.runs:
            result = run.result
            rows.append(
                [
                    row.label,
                    str(result.seed),
                    result.backbone["file"],
                    result.backbone["sha256"][:12] or ABSENT,
                    result.finished,
                    _versions_text(result.versions),
                    str(run.path),
                ]
            )
    return Table(header, rows)


def pretraining_text(result: Result) -> str:
    """Return what the backbone was pretrained on, for example ``"coco_2017_train, 400 epochs"``."""
    info = result.backbone["info"]
    if not result.backbone["sha256"]:
        return "none"
    parts = [" + ".join(pretraining_datasets(info))] if info.get("dataset") else []
    if isinstance(info.get("epochs"), int | float):
        parts.append(f"{info['epochs']:g} epochs")
    if info.get("synthetic"):
        parts.append("synthetic")
    return ", ".join(parts) or "not recorded"


def summary_of(row: Row, metric: str) -> Summary:
    """Return mean and spread of ``metric`` over the runs of ``row``."""
    return summarize([value for _, value in row.values(metric)])


def difference_cell(row: Row, baseline: Row, metric: str) -> str:
    """Return the difference of ``row`` to ``baseline``; a dash for the baseline itself."""
    if row is baseline:
        return ABSENT
    return format_difference(difference(row.values(metric), baseline.values(metric)))


def _published_cells(group: Group, row: Row) -> list[str]:
    beside = published.published_beside(row.first, builtin_published())
    cells = []
    for metric in group.headline:
        reference = beside.metrics.get(metric) if beside else None
        ours = summary_of(row, metric).mean
        if reference is None:
            cells.append(ABSENT)
        else:
            cells.append(f"{reference:.1f} (ours {ours - reference:+.2f})")
    return cells


def _versions_text(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in _SHOWN_VERSIONS if versions.get(name))
