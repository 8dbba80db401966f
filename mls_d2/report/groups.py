"""Results sorted into groups that may stand in one table, and into the rows of that table."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mls_d2.config.recipes import Recipe, differing_keys, pretraining_recipe, transfer_recipe
from mls_d2.core.errors import UserError
from mls_d2.results.schema import LocatedResult, Result

_MAX_LISTED = 6
_MAX_DISAGREEING = 4
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

    @property
    def conditions(self) -> Recipe:
        """What must be equal for two cells of a task to be comparable."""
        return {"preset": self.preset, **dict(self.recipe)}


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
    """Rows that are comparable: same task, preset, data and fine-tuning recipe.

    Only where that was asked for they are not, and ``mixed`` says so.
    """

    task: str
    preset: str
    rows: tuple[Row, ...]
    """Random initialisation first, then by label."""
    note: str
    """What sets the group apart from the others of its task; empty if it is the only one."""
    disagreements: tuple[str, ...] = ()
    """One message for each pair of runs that should have given the same numbers and did not."""
    mixed: str = ""
    """The keys in which rows differ that should not stand in one table; empty if they may."""

    @property
    def runs(self) -> list[LocatedResult]:
        """The runs of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def synthetic(self) -> bool:
        """Whether data of any row is generated."""
        return any(run.result.dataset["synthetic"] for run in self.runs)

    @functools.cached_property
    def metrics(self) -> list[str]:
        """The metrics to show, for example ``["bbox.AP", "bbox.AP50", …]``."""
        return shown_metrics(run.result for run in self.runs)

    @functools.cached_property
    def headline(self) -> list[str]:
        """The metrics that sum a result up, for example ``["bbox.AP", "segm.AP"]``."""
        metrics = self.metrics
        return [name for name in metrics if name.partition(".")[2] in _HEADLINE] or metrics[:1]

    def row(self, name: str) -> Row | None:
        """Return the row of that label, or else the only one of that method; None without one."""
        labelled = [row for row in self.rows if row.label == name]
        found = labelled or self.of_method(name)
        return found[0] if len(found) == 1 else None

    def of_method(self, method: str) -> list[Row]:
        """Return the rows of ``method``: several where its pretraining differs."""
        return [row for row in self.rows if row.first.method == method]


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


def group_results(
    results: Sequence[LocatedResult], *, mix: bool = False
) -> tuple[list[Group], list[str]]:
    """Sort ``results`` into comparable groups.

    Args:
        results: in any order.
        mix: put all results of a task into one group, comparable or not; the group says so.

    Returns:
        The groups, sorted by task and preset, and one message for each result that is left out:
        its config is unreadable, or a newer run of the same cell (group, method, backbone and
        seed) exists.
    """
    cells: dict[_Cell, LocatedResult] = {}
    problems: list[str] = []
    disagreements: dict[_Cell, list[str]] = defaultdict(list)
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
            disagreements[cell] += _disagreement(cells[cell], located)
        cells[cell] = located
    members: dict[object, list[_Cell]] = defaultdict(list)
    for cell in cells:
        members[cell.task if mix else (cell.task, cell.preset, cell.recipe)].append(cell)
    groups = [_group(group, cells, disagreements) for group in members.values()]
    return sorted(groups, key=lambda group: (group.task, group.preset, group.note)), problems


def _group(
    group: Sequence[_Cell],
    cells: Mapping[_Cell, LocatedResult],
    disagreements: Mapping[_Cell, Sequence[str]],
) -> Group:
    differing = differing_keys([cell.conditions for cell in group])
    return Group(
        task=group[0].task,
        preset=" + ".join(sorted({cell.preset for cell in group})),
        rows=_rows(group, cells),
        note="" if differing else _note(group[0], cells),
        disagreements=tuple(line for cell in group for line in disagreements.get(cell, ())),
        mixed=", ".join(differing),
    )


def _disagreement(older: LocatedResult, newer: LocatedResult) -> list[str]:
    """Return one line if two runs of one cell have different metrics, else none."""
    ours, theirs = (
        {
            f"{task}.{name}": value
            for task, values in run.result.metrics.items()
            for name, value in values.items()
        }
        for run in (newer, older)
    )
    different = [
        f"{name} {theirs[name]:.2f} and {ours[name]:.2f}"
        for name in theirs
        if name in ours and not _equal(ours[name], theirs[name])
    ]
    different += [f"{name} in one of them" for name in sorted(ours.keys() ^ theirs.keys())]
    if not different:
        return []
    shown = ", ".join(different[:_MAX_DISAGREEING])
    more = len(different) - _MAX_DISAGREEING
    return [
        f"{older.path} and {newer.path} are runs of the same method, backbone and seed and "
        f"disagree: {shown}{f' and {more} more' if more > 0 else ''}; the second, newer, counts"
    ]


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9) or (math.isnan(one) and math.isnan(other))


def _cell(result: Result) -> _Cell:
    backbone = result.backbone
    recipe = {**transfer_recipe(result.config), "dataset": result.dataset["fingerprint"][:12]}
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
    members: dict[object, list[_Cell]] = defaultdict(list)
    for cell in group:
        members[cell.method, cell.pretraining, cell.preset, cell.recipe].append(cell)
    kinds = [row[0] for row in members.values()]
    mixed_in = differing_keys([cell.conditions for cell in kinds])
    rows = []
    for row in members.values():
        siblings = [dict(cell.pretraining) for cell in kinds if cell.method == row[0].method]
        apart = _listed(dict(row[0].pretraining), differing_keys(siblings))
        conditions = _listed(row[0].conditions, mixed_in)
        runs = sorted((cells[cell] for cell in row), key=_order)
        label = "; ".join(part for part in (apart, conditions) if part)
        method = row[0].method
        rows.append(Row(f"{method} ({label})" if label else method, tuple(runs)))
    return tuple(sorted(rows, key=lambda row: (row.first.method != "random", row.label)))


def _order(run: LocatedResult) -> tuple[int, str]:
    return run.result.seed, str(run.path)


def _note(cell: _Cell, cells: Iterable[_Cell]) -> str:
    """Return what sets the group of ``cell`` apart from the other groups of its task."""
    recipes = [other.conditions for other in cells if other.task == cell.task]
    return _listed(cell.conditions, differing_keys(recipes))


def _listed(recipe: Recipe, keys: Sequence[str]) -> str:
    shown = [f"{key} = {recipe.get(key, 'not set')}" for key in keys[:_MAX_LISTED]]
    more = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
