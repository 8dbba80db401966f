"""Published numbers: their files, and which of them may stand beside a result."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from mls_d2.config.recipes import Recipe, pretraining_recipe, transfer_recipe
from mls_d2.core.errors import UserError, nearest
from mls_d2.results.schema import Result, pretraining_datasets

Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
MetricColumn = Annotated[str, msgspec.Meta(pattern=r"^[^/]+/[^.]+\..+$")]
"""``task/evaluator.metric``, for example ``coco_mask_rcnn_fpn/bbox.AP``."""


class Protocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fine-tuning that a result on a task needs to be compared with published numbers."""

    iterations: int
    batch: int
    """Images per iteration, over all processes."""
    images: tuple[int, ...]
    """Sizes of the training and the test set."""


class FileRow(msgspec.Struct, forbid_unknown_fields=True):
    """One row of a table of a file; ``docs/report.md`` describes the format."""

    method: str
    data: str | None
    epochs: float | None
    values: list[Percent | None]
    label: str = ""
    config: dict[str, Any] = {}
    transfer: dict[str, Any] = {}
    note: str = ""


class FileTable(msgspec.Struct, forbid_unknown_fields=True):
    """One table of a file."""

    table: int | str
    title: str
    columns: list[MetricColumn]
    rows: list[FileRow]
    source: str = ""


class PublishedFile(msgspec.Struct, forbid_unknown_fields=True):
    """A whole file."""

    source: str
    tables: list[FileTable]
    datasets: dict[str, str] = {}
    configs: dict[str, dict[str, Any]] = {}
    tasks: dict[str, Protocol] = {}


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
    """Pretraining epochs; None if the paper does not state them."""
    config: Mapping[str, Any]
    """Dotted key to the value that the pretraining config must have if it has the key."""
    transfer: Mapping[str, Any]
    """The same of the fine-tuning config, for example of its heads."""
    note: str
    """What readers of the numbers should be aware of; may be empty."""
    metrics: Mapping[str, float]
    """For example ``{"bbox.AP": 40.1, …}``, in percent; what the paper leaves out is absent."""
    table: str
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
    """Return the paper's numbers followed by those of the user's files.

    Args:
        paths: files in the format of ``published.yaml``, which ``docs/report.md`` describes. Their
            protocol of a task replaces ours.

    Raises:
        UserError: a file cannot be read or does not follow the format; names file and place.
    """
    published = builtin_published()
    for path in map(Path, paths):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            message = f"cannot read published numbers from '{path}': {reason}"
            raise UserError(message, code="missing-file") from None
        added = _parse(text, str(path))
        published = Published(
            published.rows + added.rows, {**published.protocols, **added.protocols}
        )
    return published


def published_beside(result: Result, published: Published) -> PublishedRow | None:
    """Return the row whose numbers may stand beside ``result``; None if there is none."""
    if not_comparable(result, published):
        return None
    return matching_row(
        published.of_task(result.task),
        method=result.method,
        info=result.backbone.info,
        transfer=_recipe_or_empty(result.config, transfer_recipe),
    )


def not_comparable(result: Result, published: Published) -> str:
    """Return why no published number may stand beside ``result``; empty if one may.

    Preset, data, length of the fine-tuning and the backbone's preset and data decide; whether a row
    of the same method exists does not.
    """
    info = result.backbone.info
    reasons = []
    if result.preset == "quick":
        reasons.append("shortened schedule")
    elif result.preset != "paper":
        reasons.append(f"preset {result.preset}, not the published recipe")
    elif result.task in published.protocols:
        protocol = published.protocols[result.task]
        reasons.append(_shortened(result, protocol))
        if result.dataset.num_images not in protocol.images:
            expected = " or ".join(map(str, protocol.images))
            images = result.dataset.num_images
            reasons.append(f"another dataset, {images} images instead of {expected}")
    if result.dataset.synthetic:
        reasons.append("synthetic scenes")
    elif info.get("synthetic"):
        reasons.append("backbone pretrained on synthetic scenes")
    if info.get("preset", "paper") != "paper":
        reasons.append(f"backbone pretrained with preset {info['preset']}")
    return ", ".join(filter(None, reasons))


def why_not_compared(result: Result, published: Published) -> str:
    """Return why :func:`published_beside` has no row for ``result``."""
    reason = not_comparable(result, published)
    if reason:
        return reason
    rows = published.of_task(result.task)
    if not rows:
        return f"there are none for task {result.task}"
    same = [row for row in rows if row.method == result.method]
    if not same:
        methods = ", ".join(dict.fromkeys(row.method for row in rows))
        return f"there are none for {result.method} on {result.task}, only for {methods}"
    info = result.backbone.info
    if result.backbone.sha256 and not pretraining_datasets(info):
        return "its file does not state what it was pretrained on"
    ours = _recipe_or_empty(str(info.get("config", "")), pretraining_recipe)
    for row in same:
        if _same_pretraining(row, info):
            transfer = _recipe_or_empty(result.config, transfer_recipe)
            apart = _contradictions(ours, row.config) + _contradictions(transfer, row.transfer)
            return f"{result.method} is published with another recipe ({', '.join(apart)})"
    pretraining = "; ".join(dict.fromkeys(row.pretraining for row in same))
    return f"{result.method} is published there with other pretraining ({pretraining})"


def matching_row(
    rows: Iterable[PublishedRow],
    *,
    method: str,
    info: Mapping[str, Any],
    transfer: Recipe | None = None,
) -> PublishedRow | None:
    """Return the published row that one of our backbones is to be compared with.

    Args:
        rows: the rows of the task.
        method: our method's name.
        info: metadata of our backbone; ``dataset``, ``epochs``, ``config`` and ``synthetic``
            count.
        transfer: the recipe of the fine-tuning.

    Returns:
        The first row of the same method whose pretraining data are ours, whose epochs are ours or
        not stated in the paper, and whose configs ours do not contradict; None if there is none.
    """
    ours = _recipe_or_empty(str(info.get("config", "")), pretraining_recipe)
    for row in rows:
        contradicted = _contradictions(ours, row.config) or _contradictions(
            transfer or {}, row.transfer
        )
        if row.method == method and _same_pretraining(row, info) and not contradicted:
            return row
    return None


def is_shortened(result: Result, protocols: Mapping[str, Protocol]) -> bool:
    """Whether a result's fine-tuning was shorter than the published one, on purpose or not."""
    if result.preset == "quick":
        return True
    return result.task in protocols and bool(_shortened(result, protocols[result.task]))


def _shortened(result: Result, protocol: Protocol) -> str:
    """Return how much shorter than ``protocol`` the fine-tuning was; empty if it was not."""
    try:
        recipe = transfer_recipe(result.config)
        iterations = int(recipe["SOLVER.MAX_ITER"])
        batch = int(recipe["SOLVER.IMS_PER_BATCH"])
    except (UserError, KeyError, ValueError):
        return ""
    # Rounding on another number of processes may cost a few iterations.
    if iterations * batch >= 0.99 * protocol.iterations * protocol.batch:
        return ""
    return (
        f"shortened schedule, {iterations} iterations of {batch} images instead of "
        f"{protocol.iterations} of {protocol.batch}"
    )


def _same_pretraining(row: PublishedRow, info: Mapping[str, Any]) -> bool:
    """Whether data and epochs of a backbone's pretraining are those of ``row``."""
    # No dataset counts as one without a name, which only a row without data matches.
    names = [name.lower() for name in pretraining_datasets(info)] or [""]
    same_data = all(row.dataset in name for name in names) and bool(row.dataset) == (names != [""])
    return same_data and not info.get("synthetic") and row.epochs in (None, info.get("epochs"))


def _recipe_or_empty(config: str, read: Any) -> Recipe:
    with contextlib.suppress(UserError):
        return read(config)
    return {}


def _contradictions(recipe: Recipe, published: Mapping[str, Any]) -> list[str]:
    """Return ``"MLS.K 5 instead of 20"`` for each key of ``recipe`` with another value."""
    return [
        f"{key} {recipe[key]} instead of {value}"
        for key, value in published.items()
        if key in recipe and not _same(recipe[key], str(value))
    ]


def _same(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other


def _parse(text: str, name: str) -> Published:
    try:
        file = msgspec.convert(yaml.safe_load(text), PublishedFile)
    except yaml.YAMLError as error:
        message = f"{name} is not readable YAML: {' '.join(str(error).split())}"
        raise UserError(message, code="damaged-file") from None
    except msgspec.ValidationError as error:
        raise UserError(f"{name}: {error}{_nearest_key(str(error))}", code="bad-value") from None
    rows = [row for table in file.tables for row in _rows_of(table, file, name)]
    return Published(tuple(rows), file.tasks)


def _nearest_key(message: str) -> str:
    unknown = re.search(r"unknown field `(.*?)`", message)
    structs = (PublishedFile, FileTable, FileRow, Protocol)
    fields = {field for struct in structs for field in struct.__struct_fields__}
    return f"; {nearest(unknown[1], fields)}" if unknown else ""


def _rows_of(table: FileTable, file: PublishedFile, name: str) -> Iterator[PublishedRow]:
    for number, row in enumerate(table.rows, start=1):
        where = f"{name}: table {table.table}, row {number}"
        if row.data is not None and row.data not in file.datasets:
            hint = nearest(row.data, file.datasets)
            message = f"{where}: data {row.data!r} is not listed under datasets; {hint}"
            raise UserError(message, code="unknown-name")
        if len(row.values) != len(table.columns):
            message = f"{where}: {len(row.values)} values for {len(table.columns)} columns"
            raise UserError(message, code="bad-value")
        tasks: dict[str, dict[str, float]] = {}
        for column, value in zip(table.columns, row.values, strict=True):
            task, _, metric = column.partition("/")
            tasks.setdefault(task, {}).update({} if value is None else {metric: value})
        for task, metrics in tasks.items():
            yield PublishedRow(
                task=task,
                method=row.method,
                label=row.label or row.method,
                data=row.data,
                dataset=file.datasets.get(row.data or "", "").lower(),
                epochs=row.epochs,
                config={**file.configs.get(row.method, {}), **row.config},
                transfer=row.transfer,
                note=row.note,
                metrics=metrics,
                table=str(table.table),
                source=table.source or file.source,
            )
