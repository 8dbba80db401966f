"""One model of a table, which every format is rendered from, and the tables of a report."""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from mls_d2.report.groups import Group, MethodRow, metric_label
from mls_d2.report.published import (
    Published,
    PublishedRow,
    builtin_published,
    not_comparable,
    published_beside,
)
from mls_d2.report.statistics import Difference, Summary, difference, summarize
from mls_d2.results.schema import LocatedResult, Result

DEFAULT_BASELINE = "random"  # the method that differences are taken to
ABSENT = "–"  # a number that was not measured

_LINKED_FILES = ("results.json", "config.yaml", "log.txt", "predictions.png")
_SHOWN_VERSIONS = ("python", "torch", "torchvision", "detectron2", "mls_d2")
_HOURS = {"cuda": "GPU-hours", "cpu": "CPU-hours"}


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What the user of a report may choose."""

    baseline: str = DEFAULT_BASELINE  # a method, or the label of a row
    mix: bool = False  # results that are not comparable may share one table
    published: Published = dataclasses.field(default_factory=builtin_published)


@dataclasses.dataclass(frozen=True)
class TableCell:
    """One entry of a table, without the markup of any format."""

    text: str
    value: float = math.nan  # to sort by; NaN for text and for a number that was not measured
    std: float = math.nan  # sample standard deviation over ``n`` runs
    n: int = 0
    significant: bool = False  # of a difference: marked by a star
    best: bool = False  # significantly above every other row: printed in bold
    # Name to path relative to the report's folder, shown instead of the text if possible.
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.text} *" if self.significant else self.text


@dataclasses.dataclass(frozen=True)
class Column:
    """The head of a column."""

    name: str
    numeric: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns, and rows with a cell for each of them."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[TableCell]]

    def frame(self, write: Callable[[TableCell], str]) -> pd.DataFrame:
        """Return the table as a frame of texts, each cell written by ``write``."""
        rows = [[write(cell) for cell in row] for row in self.rows]
        return pd.DataFrame(rows, columns=[column.name for column in self.columns], dtype=object)


def summary_cell(summary: Summary, *, digits: int = 2, best: bool = False) -> TableCell:
    """Return ``"40.12 ± 0.20"``; without the spread for a single run, a dash for none."""
    if not summary.n:
        return TableCell(ABSENT)
    text = f"{summary.mean:.{digits}f}"
    text += f" ± {summary.std:.{digits}f}" if summary.n > 1 else ""
    return TableCell(text, summary.mean, summary.std, summary.n, best=best)


def difference_cell(found: Difference, *, star: bool = True) -> TableCell:
    """Return ``"+1.20 ± 0.30"``; a significant one is marked if ``star``."""
    if not math.isfinite(found.mean):
        return TableCell(ABSENT)
    text = f"{found.mean:+.2f}" + (f" ± {found.std:.2f}" if math.isfinite(found.std) else "")
    return TableCell(text, found.mean, found.std, found.n, significant=star and found.significant)


def number_cell(value: float, form: str) -> TableCell:
    """Return a number in a format such as ``".1f"``; a dash for NaN."""
    return TableCell(format(value, form) if math.isfinite(value) else ABSENT, value)


def duration_cell(seconds: float) -> TableCell:
    """Return ``"45 s"``, ``"3 min 05 s"`` or ``"12 h 07 min"``; a dash for NaN."""
    if not math.isfinite(seconds):
        return TableCell(ABSENT, seconds)
    minutes, rest = divmod(round(seconds), 60)
    text = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{rest} s"
    return TableCell(f"{minutes} min {rest:02d} s" if 0 < minutes < 60 else text, seconds)


def p_cell(p: float) -> TableCell:
    """Return ``"0.023"``, ``"< 0.001"``, or a dash for NaN."""
    return TableCell("< 0.001", p) if p < 0.001 else number_cell(p, ".3f")


def group_not_comparable(group: Group, published: Published) -> str:
    """Return why no published number is comparable with ``group``; empty if one is."""
    reasons = [not_comparable(row.first, published) for row in group.rows]
    return "" if "" in reasons else "; ".join(dict.fromkeys(reasons))


def baseline_of(group: Group, options: ReportOptions) -> MethodRow | None:
    """Return the row that others are compared with; None if there is none to compare with."""
    return None if group.mixed else group.row(options.baseline)


def results_table(group: Group, options: ReportOptions) -> Table:
    """Return one row per method with every metric.

    Beside a headline metric: its difference to the baseline and, if comparable, to the published.
    """
    baseline = baseline_of(group, options)
    beside = not group_not_comparable(group, options.published)
    columns = [*_texts("method"), Column("n")]
    for metric in group.metrics:
        label = metric_label(metric)
        columns.append(Column(label))
        if metric in group.headline:
            columns += [Column(f"{label} − {baseline.label}")] if baseline else []
            columns += [Column(f"published {label}"), Column(f"{label} − published")] * beside
    best = {metric: best_row(group, metric) for metric in group.metrics}
    rows = []
    for row in group.rows:
        cells = [TableCell(row.label), number_cell(len(row.runs), "d")]
        published = published_beside(row.first, options.published) if beside else None
        for metric in group.metrics:
            cells.append(summary_cell(_summary(row, metric), best=best[metric] is row))
            if metric in group.headline:
                cells += [_to_baseline(row, baseline, metric)] if baseline else []
                cells += _to_published(row, published, metric) if beside else []
        rows.append([*cells, TableCell(_pretraining(row.first))])
    return Table([*columns, *_texts("pretraining")], rows)


def best_row(group: Group, metric: str) -> MethodRow | None:
    """Return the only row that is significantly above all others; None without others."""
    measured = [row for row in group.rows if _summary(row, metric).n]
    if group.mixed or len(measured) < 2:
        return None
    best = max(measured, key=lambda row: _summary(row, metric).mean)
    values = best.values(metric)
    others = [row.values(metric) for row in measured if row is not best]
    return best if all(difference(values, other).significant for other in others) else None


def differences_table(group: Group, options: ReportOptions) -> Table | None:
    """Return each row's tested differences to the baseline; None without one or other rows."""
    baseline = baseline_of(group, options)
    if baseline is None or len(group.rows) < 2:
        return None
    rows = []
    for row in group.rows:
        for metric in group.headline if row is not baseline else ():
            found = difference(row.values(metric), baseline.values(metric))
            cells = [TableCell(row.label), TableCell(metric_label(metric))]
            cells += [difference_cell(found, star=False), number_cell(found.n, "d")]
            cells += [TableCell(found.test or ABSENT), p_cell(found.p), TableCell(found.verdict)]
            rows.append(cells)
    columns = [*_texts("method", "metric"), Column(f"difference to {baseline.label}")]
    return Table([*columns, Column("n"), *_texts("test"), Column("p"), *_texts("verdict")], rows)


def cost_table(group: Group) -> Table:
    """Return one row per method: speed, time, device hours and memory, mean over its runs."""
    kinds = {run.result.device.kind for run in group.runs}
    shown = [kind for kind in _HOURS if kind in kinds]
    rows = []
    for row in group.rows:
        runs = [run.result for run in row.runs]
        speed = summarize([run.images_per_s for run in runs])
        memory = summarize([run.peak_memory_mb for run in runs])
        hours = [summarize([_device_hours(run, kind) for run in runs]).mean for kind in shown]
        cells = [TableCell(row.label), summary_cell(speed, digits=1)]
        cells.append(duration_cell(summarize([run.wall_time_s for run in runs]).mean))
        cells += [number_cell(value, ".3g") for value in hours]
        rows.append([*cells, summary_cell(memory, digits=0)])
    columns = [*_texts("method"), Column("training images/s"), Column("wall time")]
    columns += [Column(_HOURS[kind]) for kind in shown]
    return Table([*columns, Column("peak memory (MiB)")], rows)


def provenance_table(group: Group, out: Path | None) -> Table:
    """Return the sources of every run's weights and numbers, linked from the folder ``out``."""
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
                _device(result),
            ]
            cells = [TableCell(row.label), number_cell(result.seed, "d"), *map(TableCell, texts)]
            links = _links(run, out) if out is not None else {}
            rows.append([*cells, TableCell(str(run.path), links=links)])
    columns = [*_texts("method"), Column("seed"), *_texts("backbone", "sha256")]
    return Table([*columns, *_texts("finished (UTC)", "versions", "device", "result")], rows)


def summary_table(results: Table, cost: Table, group: Group) -> Table:
    """Return the columns of two tables of ``group`` that a terminal has space for."""
    labels = {metric_label(metric) for metric in group.headline}
    shown = [
        column.name in {"method", "n"}
        or (column.name.partition(" − ")[0] in labels and not column.name.endswith("published"))
        for column in results.columns
    ]
    wall_time = [column.name == "wall time" for column in cost.columns]
    rows = [
        [*itertools.compress(row, shown), *itertools.compress(costs, wall_time)]
        for row, costs in zip(results.rows, cost.rows, strict=True)
    ]
    columns = itertools.compress([*results.columns, *cost.columns], shown + wall_time)
    return Table(list(columns), rows)


def comparison_table(group: Group, row: MethodRow, published: PublishedRow | None) -> Table:
    """Return one row per metric of ``row``: ours, and beside it the published number."""
    columns = [*_texts("metric"), Column("ours")]
    columns += [Column("published"), Column("difference")] if published else []
    rows = []
    for metric in group.metrics:
        cells = [TableCell(metric_label(metric)), summary_cell(_summary(row, metric))]
        rows.append(cells + (_to_published(row, published, metric) if published else []))
    return Table(columns, rows)


def _texts(*names: str) -> list[Column]:
    return [Column(name, numeric=False) for name in names]


def _summary(row: MethodRow, metric: str) -> Summary:
    return summarize([value for _, value in row.values(metric)])


def _to_baseline(row: MethodRow, baseline: MethodRow, metric: str) -> TableCell:
    """Return the difference of ``row`` to ``baseline``; a dash for the baseline itself."""
    if row is baseline:
        return TableCell(ABSENT)
    return difference_cell(difference(row.values(metric), baseline.values(metric)))


def _to_published(row: MethodRow, published: PublishedRow | None, metric: str) -> list[TableCell]:
    reference = published.metrics.get(metric, math.nan) if published else math.nan
    ours = _summary(row, metric).mean
    return [number_cell(reference, ".1f"), number_cell(ours - reference, "+.2f")]


def _device_hours(result: Result, kind: str) -> float:
    """Return GPU or CPU hours, those of the threads; NaN if none of that kind was used."""
    if result.device.kind != kind or result.device.count < 1:
        return math.nan
    return result.wall_time_s * result.device.count / 3600


def _links(run: LocatedResult, out: Path) -> dict[str, str]:
    """Return links from the report's folder to those files of a run that exist."""
    folder = os.path.relpath(run.path.parent.resolve(), out.resolve())
    names = [name for name in _LINKED_FILES if run.path.with_name(name).is_file()]
    return {name: quote(Path(folder, name).as_posix()) for name in names}


def _device(result: Result) -> str:
    device = result.device
    if device.kind == "unknown":
        return ABSENT
    if device.kind == "cpu":
        return f"cpu, {device.count} threads"
    return f"{device.count} × {device.name or device.kind}"


def _pretraining(result: Result) -> str:
    """Return what the backbone was pretrained on, for example ``"coco_2017_train, 400 epochs"``."""
    backbone = result.backbone
    if not backbone.sha256:
        return "none"
    epochs = backbone.info.get("epochs")
    parts = [" + ".join(backbone.datasets)] if backbone.datasets else []
    parts += [f"{epochs:g} epochs"] if isinstance(epochs, int | float) else []
    parts += ["synthetic"] if backbone.synthetic else []
    return ", ".join(parts) or "not recorded"
