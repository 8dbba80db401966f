"""The numbers of the paper's tables, read from ``published.yaml``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import yaml

from mls_d2.report.results import pretraining_datasets


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """One method's published numbers on one task."""

    method: str
    """The name that results use, for example ``"mocov2"``."""
    label: str
    """The name that the paper prints."""
    data: str | None
    """What it was pretrained on; None for random initialisation."""
    dataset: str
    """What the name of that dataset contains here, in lower case; empty for no data."""
    epochs: int | None
    """Pretraining epochs; None where the paper does not say."""
    metrics: Mapping[str, float]
    """For example ``{"bbox.AP": 40.1, …}``, in percent; what the paper leaves out is absent."""
    table: int
    title: str
    """What the table shows."""
    source: str
    """The publication."""


def published_rows(task: str) -> list[PublishedRow]:
    """Return the published rows of ``task`` in the paper's order; empty for an unknown task."""
    return [row for name, row in _all_rows() if name == task]


def matching_row(
    rows: Iterable[PublishedRow], *, method: str, info: Mapping[str, Any]
) -> PublishedRow | None:
    """Return the published row that one of our backbones is to be compared with.

    Args:
        rows: the rows of the task.
        method: our method's name.
        info: metadata of our backbone; ``dataset``, ``epochs`` and ``synthetic`` count.

    Returns:
        The first row of the same method whose pretraining data are ours, and whose epochs are ours
        or not stated in the paper; None where there is none.
    """
    if info.get("synthetic"):
        return None
    # No dataset counts as one without a name, which only a row without data matches.
    datasets = [name.lower() for name in pretraining_datasets(info)] or [""]
    for row in rows:
        same_data = all(row.dataset in name for name in datasets)
        if row.method == method and same_data and row.epochs in (None, info.get("epochs")):
            return row
    return None


@functools.cache
def _all_rows() -> list[tuple[str, PublishedRow]]:
    """Return ``(task, row)`` pairs: a table row that spans several tasks gives one for each."""
    text = resources.files("mls_d2.report").joinpath("published.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    pairs = []
    for table in document["tables"]:
        for row in table["rows"]:
            fields = {key: row[key] for key in ("method", "label", "data", "epochs")}
            fields |= {"table": table["table"], "title": table["title"]}
            fields["dataset"] = document["datasets"].get(row["data"], "")
            fields["source"] = document["source"]
            for task, metrics in _by_task(table["columns"], row["values"]).items():
                pairs.append((task, PublishedRow(**fields, metrics=metrics)))
    return pairs


def _by_task(columns: list[str], values: list[Any]) -> dict[str, dict[str, float]]:
    tasks: dict[str, dict[str, float]] = {}
    for column, value in zip(columns, values, strict=True):
        task, _, metric = column.partition("/")
        tasks.setdefault(task, {})
        if value is not None:
            tasks[task][metric] = float(value)
    return tasks
