"""The tables of a group of results; the writers only lay them out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mls_d2.report import published
from mls_d2.report.cells import (
    ABSENT,
    Cell,
    Column,
    Link,
    Table,
    format_difference,
    format_duration,
    format_p,
    number_cell,
    summary_cell,
    text_columns,
)
from mls_d2.report.groups import Group, Row, metric_label
from mls_d2.report.options import Options
from mls_d2.report.statistics import Summary, difference, summarize
from mls_d2.results.schema import LocatedResult, Result, pretraining_datasets

LINKED_FILES = ("results.json", "config.yaml", "log.txt", "predictions.png")
"""What a run leaves in its folder for people to read."""

_SHOWN_VERSIONS = ("python", "torch", "torchvision", "detectron2", "mls_d2")
_HOURS = {"cuda": "GPU-hours", "cpu": "CPU-hours"}
_DEFAULTS = Options()


def not_comparable(group: Group, options: Options = _DEFAULTS) -> str:
    """Say why no published number may stand beside ``group``; empty where one may."""
    reasons = [published.not_comparable(row.first, options.published) for row in group.rows]
    return "" if "" in reasons else "; ".join(dict.fromkeys(reasons))


def baseline_of(group: Group, options: Options = _DEFAULTS) -> Row | None:
    """Return the row that others are compared with; None where there is none to compare with."""
    return None if group.mixed else group.row(options.baseline)


def results_table(group: Group, options: Options = _DEFAULTS) -> Table:
    """Return one row a method: every metric, and what it is to be compared with.

    Beside a headline metric stand the difference to the baseline and, where they are comparable,
    the published number and the difference to that.
    """
    baseline = baseline_of(group, options)
    beside = not not_comparable(group, options)
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
        cells = [Cell(row.label), Cell(str(len(row.runs)), len(row.runs))]
        for metric in group.metrics:
            cells.append(summary_cell(summary_of(row, metric), best=best[metric] is row))
            if metric in group.headline:
                cells += [difference_cell(row, baseline, metric)] if baseline else []
                cells += _published_cells(row, metric, options) if beside else []
        rows.append([*cells, Cell(pretraining_text(row.first))])
    return Table([*columns, *text_columns("pretraining")], rows)


def best_row(group: Group, metric: str) -> Row | None:
    """Return the row with the highest mean of ``metric`` if it is significantly above all others.

    None where it is not, where rows are not comparable, or where there is but one row.
    """
    measured = [row for row in group.rows if summary_of(row, metric).n]
    if group.mixed or len(measured) < 2:
        return None
    best = max(measured, key=lambda row: summary_of(row, metric).mean)
    values = best.values(metric)
    others = [row.values(metric) for row in measured if row is not best]
    return best if all(difference(values, other).significant for other in others) else None


def significance_table(group: Group, options: Options = _DEFAULTS) -> Table | None:
    """Return one row a method and headline metric: its difference to the baseline, tested.

    None where there is no baseline, or nothing but the baseline.
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
            name, label = Cell(row.label), Cell(metric_label(metric))
            change = Cell(format_difference(found), found.mean)
            test, verdict = Cell(found.test or ABSENT), Cell(found.verdict)
            p = Cell(format_p(found.p), found.p)
            rows.append([name, label, change, Cell(str(found.n), found.n), test, p, verdict])
    return Table(columns, rows)


def cost_table(group: Group) -> Table:
    """Return one row a method: speed, time, device hours and memory, mean over its runs."""
    kinds = {run.result.device["kind"] for run in group.runs}
    shown = [kind for kind in _HOURS if kind in kinds]
    rows = []
    for row in group.rows:
        runs = [run.result for run in row.runs]
        speed = summarize([run.images_per_s for run in runs])
        seconds = summarize([run.wall_time_s for run in runs]).mean
        memory = summarize([run.peak_memory_mb for run in runs])
        cells = [Cell(row.label), summary_cell(speed, digits=1)]
        cells.append(Cell(format_duration(seconds), seconds))
        hours = [summarize([device_hours(run, kind) for run in runs]).mean for kind in shown]
        cells += [number_cell(value, ".3g") for value in hours]
        rows.append([*cells, summary_cell(memory, digits=0)])
    columns = [*text_columns("method"), Column("training images/s"), Column("wall time")]
    columns += [Column(_HOURS[kind]) for kind in shown]
    return Table([*columns, Column("peak memory (MiB)")], rows)


def device_hours(result: Result, kind: str) -> float:
    """Return how long a run kept devices of one kind busy, in hours; NaN if it had none.

    A CPU's hours are those of its threads.
    """
    device = result.device
    if device["kind"] != kind or device["count"] < 1:
        return math.nan
    return result.wall_time_s * device["count"] / 3600


def provenance_table(group: Group, out: Path | None = None) -> Table:
    """Return one row a run: where its weights and its numbers come from.

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
            cells = [Cell(row.label), Cell(str(result.seed), result.seed)]
            cells += [Cell(result.backbone["file"])]
            cells += [Cell(result.backbone["sha256"][:12] or ABSENT), Cell(result.finished)]
            cells += [Cell(_versions_text(result.versions)), Cell(device_text(result))]
            links = run_links(run, out) if out is not None else ()
            rows.append([*cells, Cell(str(run.path), links=links)])
    return Table(columns, rows)


def run_links(run: LocatedResult, out: Path) -> list[Link]:
    """Return links from the report's folder to those files of a run that are there."""
    folder = os.path.relpath(run.path.parent.resolve(), out.resolve())
    names = [name for name in LINKED_FILES if run.path.with_name(name).is_file()]
    return [Link(name, quote(Path(folder, name).as_posix())) for name in names]


def device_text(result: Result) -> str:
    """Return ``"8 × NVIDIA H100"``, ``"cpu, 2 threads"`` or a dash where it was not recorded."""
    device = result.device
    if device["kind"] == "unknown":
        return ABSENT
    if device["kind"] == "cpu":
        return f"cpu, {device['count']} threads"
    return f"{device['count']} × {device['name'] or device['kind']}"


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


def difference_cell(row: Row, baseline: Row, metric: str) -> Cell:
    """Return the difference of ``row`` to ``baseline``; a dash for the baseline itself.

    A star marks a significant one.
    """
    if row is baseline:
        return Cell(ABSENT)
    found = difference(row.values(metric), baseline.values(metric))
    return Cell(f"{format_difference(found)}{' *' if found.significant else ''}", found.mean)


def _published_cells(row: Row, metric: str, options: Options) -> Sequence[Cell]:
    beside = published.published_beside(row.first, options.published)
    reference = beside.metrics.get(metric, math.nan) if beside else math.nan
    ours = summary_of(row, metric).mean
    return number_cell(reference, ".1f"), number_cell(ours - reference, "+.2f")


def _versions_text(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in _SHOWN_VERSIONS if versions.get(name))
