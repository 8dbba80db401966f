"""Reading files of published numbers: ours, ``published.yaml``, and those that users add."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mls_d2.core.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """One method's published numbers on one task."""

    task: str
    method: str
    """The name that results use, for example ``"mocov2"``."""
    label: str
    """The name that the paper prints."""
    data: str | None
    """What it was pretrained on; None for random initialisation."""
    dataset: str
    """What the name of that dataset contains here, in lower case; empty for no data."""
    epochs: float | None
    """Pretraining epochs; None where the paper does not say."""
    config: Mapping[str, Any]
    """Dotted key to value that the pretraining config must have where it has the key."""
    metrics: Mapping[str, float]
    """For example ``{"bbox.AP": 40.1, …}``, in percent; what the paper leaves out is absent."""
    table: str
    title: str
    """What the table shows."""
    source: str
    """The publication."""

    @property
    def pretraining(self) -> str:
        """``"COCO, 400 epochs"``; ``"none"`` for random initialisation."""
        epochs = [] if self.epochs is None else [f"{self.epochs:g} epochs"]
        return ", ".join([self.data or "none", *epochs])

    @property
    def reference(self) -> str:
        """Table and publication."""
        return f"Table {self.table} of {self.source}"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What a result on a task must have gone through to be compared with published numbers."""

    iterations: int
    batch: int
    """Images an iteration, over all processes."""
    images: tuple[int, ...]
    """Sizes of the training and the test set."""


@dataclasses.dataclass(frozen=True)
class Published:
    """All published numbers that a report may show."""

    rows: tuple[PublishedRow, ...]
    protocols: Mapping[str, Protocol]
    """By task; a task may be absent."""

    def of_task(self, task: str) -> list[PublishedRow]:
        """Return the rows of ``task`` in the order of the files; empty for an unknown task."""
        return [row for row in self.rows if row.task == task]


@functools.cache
def builtin_published() -> Published:
    """Return the numbers of the paper, from ``published.yaml``."""
    text = resources.files("mls_d2.report").joinpath("published.yaml").read_text(encoding="utf-8")
    return _parse(text, "published.yaml")


def load_published(paths: Sequence[str | os.PathLike[str]] = ()) -> Published:
    """Return the paper's numbers with those of the user's files after them.

    Args:
        paths: files in the format of ``published.yaml``, which ``docs/report.md`` describes. What
            they say of a task's length holds before what ours says.

    Raises:
        UserError: a file cannot be read or does not follow the format; names file and place.
    """
    published = builtin_published()
    for path in map(Path, paths):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read published numbers from '{path}': {reason}") from None
        added = _parse(text, str(path))
        published = Published(
            published.rows + added.rows, {**published.protocols, **added.protocols}
        )
    return published


def _parse(text: str, name: str) -> Published:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not readable YAML: {' '.join(str(error).split())}") from None
    keys = ("source", "datasets", "configs", "tasks", "tables")
    _check_keys(document, keys, required=("source", "tables"), where=name)
    _check_type(document["source"], (str,), f"{name}: source")
    for key in ("datasets", "configs", "tasks"):
        _check_type(document.setdefault(key, {}), (dict,), f"{name}: {key}")
    _check_type(document["tables"], (list,), f"{name}: tables")
    protocols = {
        str(task): _protocol(fields, f"{name}: tasks: {task}")
        for task, fields in document["tasks"].items()
    }
    rows = [row for table in document["tables"] for row in _rows_of(table, document, name)]
    return Published(tuple(rows), protocols)


def _protocol(fields: Any, where: str) -> Protocol:
    keys = ("iterations", "batch", "images")
    _check_keys(fields, keys, required=keys, where=where)
    for key in keys[:2]:
        _check_type(fields[key], (int,), f"{where}: {key}")
    _check_type(fields["images"], (list,), f"{where}: images")
    for number in fields["images"]:
        _check_type(number, (int,), f"{where}: images")
    return Protocol(fields["iterations"], fields["batch"], tuple(fields["images"]))


def _rows_of(table: Any, document: Mapping[str, Any], name: str) -> Iterator[PublishedRow]:
    keys = ("table", "title", "columns", "rows")
    _check_keys(table, keys, required=keys, where=f"{name}: tables")
    where = f"{name}: table {table['table']}"
    _check_type(table["table"], (int, str), f"{where}: table")
    _check_type(table["title"], (str,), f"{where}: title")
    for key in ("columns", "rows"):
        _check_type(table[key], (list,), f"{where}: {key}")
    for column in table["columns"]:
        task, _, metric = str(column).partition("/")
        if not task or not all(metric.partition(".")):
            raise UserError(
                f"{where}: column {column!r} is not of the form task/evaluator.metric, such as "
                "coco_mask_rcnn_fpn/bbox.AP"
            )
    for number, row in enumerate(table["rows"], start=1):
        place = f"{where}, row {number}"
        _check_row(row, table["columns"], document["datasets"], place)
        config = document["configs"].get(row["method"], {})
        _check_type(config, (dict,), f"{name}: configs: {row['method']}")
        for task, metrics in _by_task(table["columns"], row["values"]).items():
            yield PublishedRow(
                task=task,
                method=row["method"],
                label=row.get("label", row["method"]),
                data=row["data"],
                dataset=str(document["datasets"].get(row["data"], "")).lower(),
                epochs=row["epochs"],
                config={**config, **row.get("config", {})},
                metrics=metrics,
                table=str(table["table"]),
                title=table["title"],
                source=document["source"],
            )


def _check_row(row: Any, columns: Sequence[str], datasets: Collection[str], where: str) -> None:
    required = ("method", "data", "epochs", "values")
    _check_keys(row, (*required, "label", "config"), required=required, where=where)
    _check_type(row["method"], (str,), f"{where}: method")
    _check_type(row.get("label", ""), (str,), f"{where}: label")
    _check_type(row["data"], (str, type(None)), f"{where}: data")
    _check_type(row["epochs"], (int, float, type(None)), f"{where}: epochs")
    _check_type(row.get("config", {}), (dict,), f"{where}: config")
    _check_type(row["values"], (list,), f"{where}: values")
    if row["data"] is not None and row["data"] not in datasets:
        raise UserError(
            f"{where}: data {row['data']!r} is not listed under datasets; "
            f"{nearest(row['data'], datasets)}"
        )
    if len(row["values"]) != len(columns):
        raise UserError(f"{where}: {len(row['values'])} values for {len(columns)} columns")
    for value in row["values"]:
        _check_type(value, (int, float, type(None)), f"{where}: values")
        if value is not None and not (math.isfinite(value) and 0 <= value <= 100):
            raise UserError(f"{where}: value {value} is not a percentage, 0 to 100")


def _check_keys(
    fields: Any, keys: Collection[str], *, required: Collection[str], where: str
) -> None:
    _check_type(fields, (dict,), where)
    for key in fields:
        if key not in keys:
            raise UserError(f"{where}: unknown key {key!r}; {nearest(str(key), keys)}")
    for key in required:
        if key not in fields:
            raise UserError(f"{where}: key {key!r} is missing")


def _check_type(value: Any, types: tuple[type, ...], where: str) -> None:
    if not isinstance(value, types) or isinstance(value, bool):
        names = {dict: "a mapping", list: "a list", str: "text", type(None): "null"}
        expected = " or ".join(names.get(item, "a number") for item in types)
        raise UserError(f"{where} is {type(value).__name__}, expected {expected}")


def _by_task(columns: Sequence[str], values: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Return task to metrics: a table row that spans several tasks gives one for each."""
    tasks: dict[str, dict[str, float]] = {}
    for column, value in zip(columns, values, strict=True):
        task, _, metric = column.partition("/")
        tasks.setdefault(task, {})
        if value is not None:
            tasks[task][metric] = float(value)
    return tasks
