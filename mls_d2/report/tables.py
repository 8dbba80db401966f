"""The tables of a report, built from groups of results."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from mls_d2.report.groups import Group, MethodRow, metric_label, shown_metrics
from mls_d2.report.published import (
    Published,
    PublishedRow,
    builtin_published,
    not_comparable,
    published_beside,
)
from mls_d2.report.statistics import Summary, difference, summarize
from mls_d2.report.table_model import (
    ABSENT,
    Column,
    Link,
    Table,
    TableCell,
    difference_cell,
    duration_cell,
    format_p,
    number_cell,
    summary_cell,
    text_columns,
)
from mls_d2.results.schema import LocatedResult, Result, pretraining_datasets

DEFAULT_BASELINE = "random"
"""The method that differences are taken to."""

LINKED_FILES = ("results.json", "config.yaml", "log.txt", "predictions.png")
"""Files in the folder of a run that people read."""

_SHOWN_VERSIONS = ("python", "torch", "torchvision", "detectron2", "mls_d2")
_HOURS = {"cuda": "GPU-hours", "cpu": "CPU-hours"}


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What the user of a report may choose."""

    baseline: str = DEFAULT_BASELINE
    """A method, or the label of a row."""
    mix: bool = False
    """Whether results that are not comparable may share one table."""
    published: Published = dataclasses.field(default_factory=builtin_published)
    """Numbers to set beside ours."""


_DEFAULTS = ReportOptions()


def group_not_comparable(group: Group, published: Published) -> str:
    """Return why no published number may stand beside ``group``; empty if one may."""
    reasons = [not_comparable(row.first, published) for row in group.rows]
    return "" if "" in reasons else "; ".join(dict.fromkeys(reasons))


def baseline_of(group: Group, options: ReportOptions = _DEFAULTS) -> MethodRow | None:
    """Return the row that others are compared with; None if there is none to compare with."""
    return None if group.mixed else group.row(options.baseline)


def results_table(group: Group, options: ReportOptions = _DEFAULTS) -> Table:
    """Return one row per method with every metric.

    Beside a headline metric are the difference to the baseline and, if they are comparable, the
    published number and the difference to that.
    """
    baseline = baseline_of(group, options)
    beside = not group_not_comparable(group, options.published)
    columns = [*text_columns("method"), Column("n")]
    for metric in group.metrics:
        label = metric_label(metric)
        columns.append(Column(label))
        if metric in group.headline:
            columns += [Column(f"{label} − {baseline.label}")] if baseline else []
            columns += [Column(f"published {label}"), Column(f"{label} − published")] * beside
    best = {metric: best_row(group, metric) for metric in group.metrics}
    rows = []
    for row in group.rows:
        cells = [TableCell(row.label), _count(len(row.runs))]
        published = published_beside(row.first, options.published) if beside else None
        for metric in group.metrics:
            cells.append(summary_cell(summary_of(row, metric), best=best[metric] is row))
            if metric in group.headline:
                cells += [_to_baseline(row, baseline, metric)] if baseline else []
                cells += _to_published(row, published, metric) if beside else []
        rows.append([*cells, TableCell(pretraining_text(row.first))])
    return Table([*columns, *text_columns("pretraining")], rows)


def best_row(group: Group, metric: str) -> MethodRow | None:
    """Return the row with the highest mean of ``metric`` if it is significantly above all others.

    None if it is not, if rows are not comparable, or if there is only one row.
    """
    measured = [row for row in group.rows if summary_of(row, metric).n]
    if group.mixed or len(measured) < 2:
        return None
    best = max(measured, key=lambda row: summary_of(row, metric).mean)
    values = best.values(metric)
    others = [row.values(metric) for row in measured if row is not best]
    return best if all(difference(values, other).significant for other in others) else None


def differences_table(group: Group, options: ReportOptions = _DEFAULTS) -> Table | None:
    """Return one row per method and headline metric: its difference to the baseline, tested.

    None if there is no baseline, or no other row.
    """
    baseline = baseline_of(group, options)
    if baseline is None or len(group.rows) < 2:
        return None
    columns = [*text_columns("method", "metric"), Column(f"difference to {baseline.label}")]
    columns += [Column("n"), *text_columns("test"), Column("p"), *text_columns("verdict")]
    rows = []
    for row in group.rows:
        for metric in group.headline if row is not baseline else ():
            found = difference(row.values(metric), baseline.values(metric))
            cells = [TableCell(row.label), TableCell(metric_label(metric))]
            cells += [difference_cell(found, star=False), _count(found.n)]
            cells += [TableCell(found.test or ABSENT), TableCell(format_p(found.p), found.p)]
            rows.append([*cells, TableCell(found.verdict)])
    return Table(columns, rows)


def cost_table(group: Group) -> Table:
    """Return one row per method: speed, time, device hours and memory, mean over its runs."""
    kinds = {run.result.device.kind for run in group.runs}
    shown = [kind for kind in _HOURS if kind in kinds]
    rows = []
    for row in group.rows:
        runs = [run.result for run in row.runs]
        speed = summarize([run.images_per_s for run in runs])
        memory = summarize([run.peak_memory_mb for run in runs])
        hours = [summarize([device_hours(run, kind) for run in runs]).mean for kind in shown]
        cells = [TableCell(row.label), summary_cell(speed, digits=1), _wall_time(row)]
        cells += [number_cell(value, ".3g") for value in hours]
        rows.append([*cells, summary_cell(memory, digits=0)])
    columns = [*text_columns("method"), Column("training images/s"), Column("wall time")]
    columns += [Column(_HOURS[kind]) for kind in shown]
    return Table([*columns, Column("peak memory (MiB)")], rows)


def device_hours(result: Result, kind: str) -> float:
    """Return how long a run occupied devices of one kind, in hours; NaN if it had none.

    CPU hours are those of its threads.
    """
    if result.device.kind != kind or result.device.count < 1:
        return math.nan
    return result.wall_time_s * result.device.count / 3600


def provenance_table(group: Group, out: Path | None = None) -> Table:
    """Return one row per run: the source of its weights and of its numbers.

    Args:
        group: the runs.
        out: the report's folder, for links to the runs' files; no links without it.
    """
    columns = [*text_columns("method"), Column("seed"), *text_columns("backbone", "sha256")]
    columns += text_columns("finished (UTC)", "versions", "device", "result")
    rows = []
    for row in group.rows:
        for run in row.runs:
            result = run.result
            versions = {name: result.versions.get(name) for name in _SHOWN_VERSIONS}
            texts = [
                result.backbone.file,
                result.backbone.sha256[:12] or ABSENT,
                result.finished,
                ", ".join(f"{name} {version}" for name, version in versions.items() if version),
                device_text(result),
            ]
            cells = [TableCell(row.label), _count(result.seed), *map(TableCell, texts)]
            links = run_links(run, out) if out is not None else ()
            rows.append([*cells, TableCell(str(run.path), links=links)])
    return Table(columns, rows)


def runs_table(groups: Sequence[Group]) -> Table:
    """Return one row per run with all metrics in full precision; unmeasured numbers are empty.

    There is at least one group. Rows with the same number in column ``group`` are comparable.
    """
    metrics = shown_metrics(run.result for group in groups for run in group.runs)
    records = []
    for number, group in enumerate(groups, start=1):
        for row in group.rows:
            values = {metric: row.values(metric) for metric in metrics}
            for place, run in enumerate(row.runs):
                measured = {metric: _exact(values[metric][place][1]) for metric in metrics}
                record = {"group": str(number), "row": row.label, **_run_record(run)}
                records.append(record | measured)
    rows = [[TableCell(text) for text in record.values()] for record in records]
    return Table(text_columns(*records[0]), rows)


def summary_table(group: Group, options: ReportOptions = _DEFAULTS) -> Table:
    """Return one row per method for a terminal: the headline metrics and the time."""
    baseline = baseline_of(group, options)
    columns = [*text_columns("method"), Column("n")]
    for metric in group.headline:
        columns.append(Column(metric_label(metric)))
        columns += [Column(f"- {options.baseline}")] if baseline else []
    rows = []
    for row in group.rows:
        cells = [TableCell(row.label), _count(len(row.runs))]
        for metric in group.headline:
            cells.append(summary_cell(summary_of(row, metric)))
            cells += [_to_baseline(row, baseline, metric)] if baseline else []
        rows.append([*cells, _wall_time(row)])
    return Table([*columns, Column("wall time")], rows)


def comparison_table(group: Group, row: MethodRow, published: PublishedRow | None) -> Table:
    """Return one row per metric of ``row``: ours, and beside it the published number."""
    columns = [*text_columns("metric"), Column("ours")]
    columns += [Column("paper"), Column("difference")] if published else []
    rows = []
    for metric in group.metrics:
        cells = [TableCell(metric_label(metric)), summary_cell(summary_of(row, metric))]
        rows.append(cells + (_to_published(row, published, metric) if published else []))
    return Table(columns, rows)


def run_links(run: LocatedResult, out: Path) -> list[Link]:
    """Return links from the report's folder to those files of a run that exist."""
    folder = os.path.relpath(run.path.parent.resolve(), out.resolve())
    names = [name for name in LINKED_FILES if run.path.with_name(name).is_file()]
    return [Link(name, quote(Path(folder, name).as_posix())) for name in names]


def device_text(result: Result) -> str:
    """Return ``"8 × NVIDIA H100"``, ``"cpu, 2 threads"`` or a dash if it was not recorded."""
    device = result.device
    if device.kind == "unknown":
        return ABSENT
    if device.kind == "cpu":
        return f"cpu, {device.count} threads"
    return f"{device.count} × {device.name or device.kind}"


def pretraining_text(result: Result) -> str:
    """Return what the backbone was pretrained on, for example ``"coco_2017_train, 400 epochs"``."""
    info = result.backbone.info
    if not result.backbone.sha256:
        return "none"
    parts = [" + ".join(pretraining_datasets(info))] if info.get("dataset") else []
    if isinstance(info.get("epochs"), int | float):
        parts.append(f"{info['epochs']:g} epochs")
    if info.get("synthetic"):
        parts.append("synthetic")
    return ", ".join(parts) or "not recorded"


def summary_of(row: MethodRow, metric: str) -> Summary:
    """Return mean and spread of ``metric`` over the runs of ``row``."""
    return summarize([value for _, value in row.values(metric)])


def _count(number: int) -> TableCell:
    return TableCell(str(number), number)


def _wall_time(row: MethodRow) -> TableCell:
    return duration_cell(summarize([run.result.wall_time_s for run in row.runs]).mean)


def _to_baseline(row: MethodRow, baseline: MethodRow, metric: str) -> TableCell:
    """Return the difference of ``row`` to ``baseline``; a dash for the baseline itself."""
    if row is baseline:
        return TableCell(ABSENT)
    return difference_cell(difference(row.values(metric), baseline.values(metric)))


def _to_published(row: MethodRow, published: PublishedRow | None, metric: str) -> list[TableCell]:
    reference = published.metrics.get(metric, math.nan) if published else math.nan
    ours = summary_of(row, metric).mean
    return [number_cell(reference, ".1f"), number_cell(ours - reference, "+.2f")]


def _run_record(run: LocatedResult) -> dict[str, str]:
    result = run.result
    return {
        "task": result.task,
        "preset": result.preset,
        "method": result.method,
        "seed": str(result.seed),
        "dataset": result.dataset.name,
        "synthetic": str(result.dataset.synthetic).lower(),
        "backbone": result.backbone.file,
        "backbone_sha256": result.backbone.sha256,
        "images_per_s": _exact(result.images_per_s),
        "wall_time_s": _exact(result.wall_time_s),
        "peak_memory_mb": _exact(result.peak_memory_mb),
        "device": result.device.kind,
        "device_count": str(result.device.count),
        "finished": result.finished,
        "result": str(run.path),
    }


def _exact(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""
