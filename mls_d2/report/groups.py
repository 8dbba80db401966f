"""Results sorted into groups that may stand in one table, and into the rows of that table."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mls_d2.errors import UserError
from mls_d2.report.recipes import Recipe, differing_keys, pretraining_recipe, transfer_recipe
from mls_d2.report.results import LocatedResult, Result

_MAX_LISTED = 6
_HEADLINE = ("AP", "mIoU", "mAP", "top1")


@dataclasses.dataclass(frozen=True)
class _Cell:
    """What makes a run the same run as another; ``recipe`` items stand for their dict."""

    task: str
    preset: str
    recipe: frozenset[tuple[str, str]]
    method: str
    pretraining: frozenset[tuple[str, str]]
    weights: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Row:
    """The runs of one method: same pretraining, any seed."""

    label: str
    """The method, with what sets it apart where several rows of a group share the method."""
    runs: tuple[LocatedResult, ...]
    """Sorted by seed; never empty."""

    @property
    def first(self) -> Result:
        """The run with the lowest seed."""
        return self.runs[0].result

    def values(self, metric: str) -> list[tuple[int, float]]:
        """Return ``(seed, value)`` of each run; ``metric`` reads ``"bbox.AP"``; NaN if absent."""
        task, _, name = metric.partition(".")
        return [
            (run.result.seed, run.result.metrics.get(task, {}).get(name, math.nan))
            for run in self.runs
        ]


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows that are comparable: same task, preset, data and fine-tuning recipe."""

    task: str
    preset: str
    rows: tuple[Row, ...]
    """Random initialisation first, then by label."""
    note: str
    """What sets the group apart from the others of its task; empty if it is the only one."""

    @property
    def synthetic(self) -> bool:
        """Whether the data is generated."""
        return self.rows[0].first.dataset["synthetic"]

    @property
    def metrics(self) -> list[str]:
        """The metrics to show, for example ``["bbox.AP", "bbox.AP50", …]``."""
        return shown_metrics(run.result for row in self.rows for run in row.runs)

    @property
    def headline(self) -> list[str]:
        """The metrics that sum a result up, for example ``["bbox.AP", "segm.AP"]``."""
        metrics = self.metrics
        return [name for name in metrics if name.partition(".")[2] in _HEADLINE] or metrics[:1]

    def row(self, method: str) -> Row | None:
        """Return the first row of ``method``; None if there is none."""
        return next((row for row in self.rows if row.first.method == method), None)


def metric_label(metric: str) -> str:
    """Return how a metric is called in tables: ``"box AP"`` for ``"bbox.AP"``."""
    task, _, name = metric.partition(".")
    prefix = {"bbox": "box ", "segm": "mask "}.get(task, "")
    return prefix + name


def shown_metrics(results: Iterable[Result]) -> list[str]:
    """Return the names of all metrics but per-category ones (``AP-person``) and AP by size."""
    names: dict[str, None] = {}
    for result in results:
        for task, values in result.metrics.items():
            for metric in values:
                if "-" not in metric and metric not in ("APs", "APm", "APl"):
                    names[f"{task}.{metric}"] = None
    return list(names)


def group_results(results: Sequence[LocatedResult]) -> tuple[list[Group], list[str]]:
    """Sort ``results`` into comparable groups.

    Returns:
        The groups, sorted by task and preset, and one message for each result that is left out:
        its config is unreadable, or a newer run of the same cell (group, method, backbone and
        seed) exists.
    """
    cells: dict[_Cell, LocatedResult] = {}
    problems: list[str] = []
    for located in sorted(results, key=lambda item: (item.result.finished, str(item.path))):
        try:
            cell = _cell(located.result)
        except UserError as error:
            problems.append(f"{located.path} is left out: {error}")
            continue
        if cell in cells:
            problems.append(
                f"{cells[cell].path} is left out: {located.path} is a newer run of "
                "the same method, backbone and seed"
            )
        cells[cell] = located
    members: dict[tuple[str, str, frozenset[tuple[str, str]]], list[_Cell]] = defaultdict(list)
    for cell in cells:
        members[cell.task, cell.preset, cell.recipe].append(cell)
    groups = [
        Group(task, preset, _rows(group, cells), _note(group[0], cells))
        for (task, preset, _), group in members.items()
    ]
    return sorted(groups, key=lambda group: (group.task, group.preset, group.note)), problems


def _cell(result: Result) -> _Cell:
    backbone = result.backbone
    recipe = {**transfer_recipe(result.config), "dataset": result.dataset["fingerprint"]}
    pretraining: Recipe = {}
    if "config" in backbone["info"]:
        pretraining = pretraining_recipe(str(backbone["info"]["config"]))
    elif backbone["sha256"]:
        pretraining = {"weights": backbone["sha256"][:12]}
    return _Cell(
        task=result.task,
        preset=result.preset,
        recipe=frozenset(recipe.items()),
        method=result.method,
        pretraining=frozenset(pretraining.items()),
        weights=backbone["sha256"],
        seed=result.seed,
    )


def _rows(group: Sequence[_Cell], cells: Mapping[_Cell, LocatedResult]) -> tuple[Row, ...]:
    members: dict[tuple[str, frozenset[tuple[str, str]]], list[LocatedResult]] = defaultdict(list)
    for cell in group:
        members[cell.method, cell.pretraining].append(cells[cell])
    rows = []
    for (method, pretraining), runs in members.items():
        siblings = [dict(other) for name, other in members if name == method]
        apart = _listed(dict(pretraining), differing_keys(siblings))
        runs.sort(key=lambda run: (run.result.seed, str(run.path)))
        rows.append(Row(f"{method} ({apart})" if apart else method, tuple(runs)))
    return tuple(sorted(rows, key=lambda row: (row.first.method != "random", row.label)))


def _note(cell: _Cell, cells: Iterable[_Cell]) -> str:
    """Return what sets the group of ``cell`` apart from the other groups of its task."""
    recipes = [
        {"preset": other.preset, **dict(other.recipe)} for other in cells if other.task == cell.task
    ]
    own = {"preset": cell.preset, **dict(cell.recipe)}
    return _listed(own, differing_keys(recipes))


def _listed(recipe: Recipe, keys: Sequence[str]) -> str:
    shown = [f"{key} = {recipe.get(key, 'not set')}" for key in keys[:_MAX_LISTED]]
    more = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
