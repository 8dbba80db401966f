"""Results sorted into groups that are comparable, and into the rows of a group's table."""

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from mls_d2.config.recipes import differing_keys, pretraining_recipe, transfer_recipe
from mls_d2.core.errors import UserError
from mls_d2.results.schema import LocatedResult, Result

_MAX_LISTED = 6
_MAX_DISAGREEING = 4
_HEADLINE = ("AP", "mIoU", "mAP", "top1")

# Columns of the frame of runs; those that are equal in all of _CELL are repetitions.
_GROUP = ["task", "conditions"]
_ROW = ["method", "pretraining", "conditions", "synthetic"]
_CELL = ["task", *_ROW, "weights", "seed"]


@dataclasses.dataclass(frozen=True)
class MethodRow:
    """The runs of one method: same pretraining, any seed."""

    label: str  # the method, with what differs from other rows of the method
    runs: tuple[LocatedResult, ...]  # sorted by seed; never empty

    @property
    def first(self) -> Result:
        """The run with the lowest seed."""
        return self.runs[0].result

    def values(self, metric: str) -> list[tuple[int, float]]:
        """Return ``(seed, value)`` of each run; ``metric`` reads ``"bbox.AP"``; NaN if absent."""
        evaluator, _, name = metric.partition(".")
        return [
            (run.result.seed, run.result.metrics.get(evaluator, {}).get(name, math.nan))
            for run in self.runs
        ]


@dataclasses.dataclass(frozen=True)
class Group:
    """Comparable rows: same task, preset, data and fine-tuning recipe, unless ``mixed``."""

    task: str
    preset: str
    rows: tuple[MethodRow, ...]  # random initialisation first, then by label
    note: str  # what differs from the other groups of the task; empty if it is the only one
    disagreements: tuple[str, ...] = ()  # one message per pair of runs that should be equal
    mixed: str = ""  # the keys in which rows differ that are not comparable; empty if all are

    @property
    def runs(self) -> list[LocatedResult]:
        """The runs of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def title(self) -> str:
        """Task, preset and kind of data."""
        kinds = sorted({run.result.dataset.synthetic for run in self.runs})
        data = " and ".join("synthetic scenes" if kind else "real images" for kind in kinds)
        return f"{self.task}, preset {self.preset}, {data}"

    @functools.cached_property
    def metrics(self) -> list[str]:
        """The metrics to show, for example ``["bbox.AP", "bbox.AP50", …]``."""
        return shown_metrics(run.result for run in self.runs)

    @property
    def headline(self) -> list[str]:
        """The metrics that summarise a result, for example ``["bbox.AP", "segm.AP"]``."""
        metrics = self.metrics
        return [name for name in metrics if name.partition(".")[2] in _HEADLINE] or metrics[:1]

    def row(self, name: str) -> MethodRow | None:
        """Return the row of that label, or else the only one of that method; None if neither."""
        labelled = [row for row in self.rows if row.label == name]
        found = labelled or self.of_method(name)
        return found[0] if len(found) == 1 else None

    def of_method(self, method: str) -> list[MethodRow]:
        """Return the rows of ``method``: several if its pretraining differs."""
        return [row for row in self.rows if row.first.method == method]


def metric_label(metric: str) -> str:
    """Return the name of a metric in tables: ``"box AP"`` for ``"bbox.AP"``."""
    evaluator, _, name = metric.partition(".")
    return {"bbox": "box ", "segm": "mask "}.get(evaluator, "") + name


def shown_metrics(results: Iterable[Result]) -> list[str]:
    """Return the names of all metrics except per-category ones (``AP-person``) and AP by size."""
    names = {
        f"{evaluator}.{name}": None
        for result in results
        for evaluator, values in result.metrics.items()
        for name in values
        if "-" not in name and name not in ("APs", "APm", "APl")
    }
    return list(names)


def is_synthetic(result: Result) -> bool:
    """Whether generated scenes took part in a result: in its data or in its pretraining."""
    return result.dataset.synthetic or result.backbone.synthetic


def group_results(
    results: Sequence[LocatedResult], *, mix: bool = False
) -> tuple[list[Group], list[str]]:
    """Sort ``results`` into comparable groups.

    Args:
        results: in any order.
        mix: put all results of a task into one group, comparable or not; the group is marked.

    Returns:
        The groups, sorted by task and preset, and one message for each result that is left out:
        its config is unreadable, or a newer run of the same task, recipe, method, backbone and
        seed exists.
    """
    records, problems = [], []
    names = _dataset_names(results)
    for located in sorted(results, key=lambda item: (item.result.finished, str(item.path))):
        try:
            records.append(_record(located, names))
        except UserError as error:
            problems.append(f"{located.path} is left out: {error}")
    frame = pd.DataFrame(records, columns=[*_CELL, "run"], dtype=object)
    disagreements: dict[object, list[str]] = {}
    for _, repeated in frame.groupby(_CELL, sort=False):
        for older, newer in itertools.pairwise(repeated["run"]):
            problems.append(
                f"{older.path} is left out: {newer.path} is a newer run of "
                "the same method, backbone and seed"
            )
            disagreements.setdefault(repeated.index[-1], []).extend(_disagreement(older, newer))
    frame = frame.drop_duplicates(_CELL, keep="last")
    apart = {
        task: differing_keys(map(dict, same["conditions"])) for task, same in frame.groupby("task")
    }
    groups = []
    for (task, *_), members in frame.groupby(["task"] if mix else _GROUP, sort=False):
        differing = differing_keys(map(dict, members["conditions"]))
        note = "" if differing else _listed(members["conditions"].iloc[0], apart[task])
        found = [line for place in members.index for line in disagreements.get(place, ())]
        preset = " + ".join(sorted({run.result.preset for run in members["run"]}))
        rows = _rows(members, differing)
        groups.append(Group(task, preset, rows, note, tuple(found), ", ".join(differing)))
    return sorted(groups, key=lambda group: (group.task, group.preset, group.note)), problems


def _dataset_names(runs: Iterable[LocatedResult]) -> dict[str, str]:
    """Return a name for each fingerprint; data that share it are told apart by folder or digest."""
    datasets = {run.result.dataset.fingerprint: run.result.dataset for run in runs}
    names = {}
    for fingerprint, data in datasets.items():
        kind = "synthetic" if data.synthetic else "real"
        names[fingerprint] = f"{data.name} ({data.num_images} {kind} images)"
    for more in (
        {key: f" in {data.root}" for key, data in datasets.items()},
        {key: f" {key[:12]}" for key in datasets},
    ):
        shared = Counter(names.values())
        names = {key: name + more[key] * (shared[name] > 1) for key, name in names.items()}
    return names


def _record(run: LocatedResult, dataset_names: Mapping[str, str]) -> dict[str, object]:
    """Return the row of the frame for one run; recipes are frozen sets of their items."""
    result = run.result
    dataset = dataset_names[result.dataset.fingerprint]
    conditions = {**transfer_recipe(result.config), "preset": result.preset, "dataset": dataset}
    pretraining: dict[str, str] = {}
    if "config" in result.backbone.info:
        pretraining = dict(pretraining_recipe(str(result.backbone.info["config"])))
        if "planned_iterations" in result.backbone.info:
            done, planned = (result.backbone.info[k] for k in ("iterations", "planned_iterations"))
            pretraining["iterations"] = f"{done} of {planned}"
    elif result.backbone.sha256:
        pretraining = {"weights": result.backbone.sha256[:12]}
    return {
        "task": result.task,
        "conditions": frozenset(conditions.items()),
        "method": result.method,
        "pretraining": frozenset(pretraining.items()),
        "synthetic": is_synthetic(result),
        "weights": result.backbone.sha256,
        "seed": result.seed,
        "run": run,
    }


def _rows(members: pd.DataFrame, mixed_in: Sequence[str]) -> tuple[MethodRow, ...]:
    all_synthetic = members["synthetic"].all()
    rows = []
    for (method, pretraining, conditions, synthetic), same in members.groupby(_ROW, sort=False):
        siblings = members["pretraining"][members["method"] == method]
        parts = (
            _listed(pretraining, differing_keys(map(dict, siblings))),
            _listed(conditions, mixed_in),
        )
        runs = sorted(same["run"], key=lambda run: (run.result.seed, str(run.path)))
        label = method
        if synthetic and not all_synthetic:
            label += ", synthetic"
        label += f" ({'; '.join(filter(None, parts))})" if any(parts) else ""
        rows.append(MethodRow(label, tuple(runs)))
    return tuple(sorted(rows, key=lambda row: (row.first.method != "random", row.label)))


def _disagreement(older: LocatedResult, newer: LocatedResult) -> list[str]:
    """Return one line if two runs that repeat each other have different metrics, else none."""
    ours, theirs = (
        {
            f"{evaluator}.{name}": value
            for evaluator, values in run.result.metrics.items()
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


def _listed(items: Iterable[tuple[str, str]], keys: Sequence[str]) -> str:
    """Return the values of ``keys`` in a recipe, those of data and preset first."""
    recipe = dict(items)
    ordered = sorted(keys, key=lambda key: (key not in ("dataset", "preset"), key))
    shown = [f"{key} = {recipe.get(key, 'not set')}" for key in ordered[:_MAX_LISTED]]
    more = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
