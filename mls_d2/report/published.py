"""Published numbers: their files, and which of them are comparable with a result."""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from mls_d2.config.recipes import Recipe, pretraining_recipe, transfer_recipe
from mls_d2.core.errors import UserError, nearest
from mls_d2.results.schema import InitialWeights, Result

_SHORT = ("quick", "onegpu")  # presets whose schedules are shorter than the published ones


class Protocol(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fine-tuning that a result on a task needs to be compared with published numbers."""

    iterations: int
    batch: int  # images per iteration, over all processes
    images: tuple[int, ...]  # sizes of the training and the test set


class FileRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of a table of a file."""

    method: str  # as in results, for example "mocov2"
    label: str = ""  # as the paper prints it
    data: str | None  # of pretraining; None for random initialisation
    epochs: float | None  # of pretraining; None if the paper does not state them
    config: dict[str, Any] = {}  # values of the pretraining config, if it has the key
    transfer: dict[str, Any] = {}  # the same of the fine-tuning config, for example of its heads
    note: str = ""  # printed with the numbers
    values: list[Annotated[float, msgspec.Meta(ge=0, le=100)] | None]  # one per column


class FileTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of a file; columns read ``task/evaluator.metric``."""

    table: int | str
    title: str
    columns: list[Annotated[str, msgspec.Meta(pattern=r"^[^/]+/[^.]+\..+$")]]
    rows: list[FileRow]
    source: str = ""  # the publication, if it is not that of the file


class PublishedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of published numbers; ``docs/report.md`` describes the format."""

    source: str
    tables: list[FileTable]
    datasets: dict[str, str] = {}
    configs: dict[str, dict[str, Any]] = {}
    tasks: dict[str, Protocol] = {}


class PublishedRow(FileRow, frozen=True, kw_only=True):
    """One method's published numbers on one task."""

    task: str
    dataset: str  # what the name of the pretraining dataset contains; empty for no data
    metrics: dict[str, float]  # such as {"bbox.AP": 40.1}, in percent
    table: str
    source: str

    @property
    def pretraining(self) -> str:
        """``"COCO, 400 epochs"``; ``"none"`` for random initialisation."""
        epochs = [] if self.epochs is None else [f"{self.epochs:g} epochs"]
        return ", ".join([self.data or "none", *epochs])


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
        paths: files in the format of ``published.yaml``. Their protocol of a task replaces ours.

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
        protocols = {**published.protocols, **added.protocols}
        published = Published(published.rows + added.rows, protocols)
    return published


def published_beside(result: Result, published: Published) -> PublishedRow | None:
    """Return the row whose numbers are comparable with ``result``; None if there is none."""
    if not_comparable(result, published):
        return None
    rows = published.of_task(result.task)
    return matching_row(rows, result.method, result.backbone, result.config)


def matching_row(
    rows: Iterable[PublishedRow], method: str, backbone: InitialWeights, config: str = ""
) -> PublishedRow | None:
    """Return the first row of ``method`` for a pretraining and a fine-tuning ``config``, YAML.

    Its pretraining data are ours, its epochs ours or not stated, and ours contradict no value of
    its configs.
    """
    for row in rows:
        same = row.method == method and _same_pretraining(row, backbone)
        if same and not _contradictions(row, backbone, config):
            return row
    return None


def not_comparable(result: Result, published: Published) -> str:
    """Return why no published number is comparable with ``result``; empty if one is.

    Preset, data, length of the fine-tuning and the backbone's preset and data decide; whether a row
    of the same method exists does not.
    """
    reasons = []
    if result.preset in _SHORT:
        reasons.append("shortened schedule")
    elif result.preset != "paper":
        reasons.append(f"preset {result.preset}, not the published recipe")
    elif result.task in published.protocols:
        protocol, images = published.protocols[result.task], result.dataset.num_images
        reasons.append(_shortened(result, protocol))
        if images not in protocol.images:
            expected = " or ".join(map(str, protocol.images))
            reasons.append(f"another dataset, {images} images instead of {expected}")
    if result.dataset.synthetic:
        reasons.append("synthetic scenes")
    elif result.backbone.synthetic:
        reasons.append("backbone pretrained on synthetic scenes")
    elif result.backbone.info.get("preset", "paper") != "paper":
        preset = result.backbone.info["preset"]
        reasons.append(f"backbone pretrained with preset {preset}, not the published recipe")
    return ", ".join(filter(None, reasons))


def why_not_compared(result: Result, published: Published) -> str:
    """Return why :func:`published_beside` has no row for ``result``."""
    reason = not_comparable(result, published)
    if reason:
        return reason
    rows = published.of_task(result.task)
    if not rows:
        return f"there are none for task {result.task}"
    ours = [row for row in rows if row.method == result.method]
    if not ours:
        methods = ", ".join(dict.fromkeys(row.method for row in rows))
        return f"there are none for {result.method} on {result.task}, only for {methods}"
    if result.backbone.sha256 and not result.backbone.datasets:
        return "its file does not state what it was pretrained on"
    for row in ours:
        if _same_pretraining(row, result.backbone):
            apart = ", ".join(_contradictions(row, result.backbone, result.config))
            return f"{result.method} is published there with another recipe ({apart})"
    pretraining = "; ".join(dict.fromkeys(row.pretraining for row in ours))
    return f"{result.method} is published there with other pretraining ({pretraining})"


def is_shortened(result: Result, published: Published) -> bool:
    """Whether a result's fine-tuning was shorter than the published one, on purpose or not."""
    protocol = published.protocols.get(result.task)
    return result.preset in _SHORT or (protocol is not None and bool(_shortened(result, protocol)))


def _shortened(result: Result, protocol: Protocol) -> str:
    """Return how much shorter than ``protocol`` the fine-tuning was; empty if it was not."""
    recipe = _recipe(result.config, transfer_recipe)
    try:
        iterations = int(recipe["SOLVER.MAX_ITER"])
        batch = int(recipe["SOLVER.IMS_PER_BATCH"])
    except (KeyError, ValueError):
        return ""
    # Rounding on another number of processes may cost a few iterations.
    if iterations * batch >= 0.99 * protocol.iterations * protocol.batch:
        return ""
    return (
        f"shortened schedule, {iterations} iterations of {batch} images instead of "
        f"{protocol.iterations} of {protocol.batch}"
    )


def _same_pretraining(row: PublishedRow, backbone: InitialWeights) -> bool:
    # No dataset counts as one without a name, which only a row without data matches.
    names = [name.lower() for name in backbone.datasets] or [""]
    same_data = all(row.dataset in name for name in names) and bool(row.dataset) == (names != [""])
    return same_data and row.epochs in (None, backbone.info.get("epochs"))


def _contradictions(row: PublishedRow, backbone: InitialWeights, config: str) -> list[str]:
    """Return ``"MLS.K 5 instead of 20"`` for each value of our configs that is not the row's."""
    pretraining = _recipe(str(backbone.info.get("config", "")), pretraining_recipe)
    transfer = _recipe(config, transfer_recipe)
    return [
        f"{key} {ours[key]} instead of {value}"
        for ours, theirs in ((pretraining, row.config), (transfer, row.transfer))
        for key, value in theirs.items()
        if key in ours and not _same(ours[key], str(value))
    ]


def _recipe(config: str, read: Callable[[str], Recipe]) -> Recipe:
    """Return the recipe of a config; empty if it is unreadable."""
    with contextlib.suppress(UserError):
        return read(config)
    return {}


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
        unknown = re.search(r"unknown field `(.*?)`", str(error))
        structs = (PublishedFile, FileTable, FileRow, Protocol)
        keys = {key for struct in structs for key in struct.__struct_fields__}
        hint = f"; {nearest(unknown[1], keys)}" if unknown else ""
        raise UserError(f"{name}: {error}{hint}", code="bad-value") from None
    rows = [row for table in file.tables for row in _rows_of(table, file, name)]
    return Published(tuple(rows), file.tasks)


def _rows_of(table: FileTable, file: PublishedFile, name: str) -> Iterator[PublishedRow]:
    for number, row in enumerate(table.rows, start=1):
        place = f"{name}: table {table.table}, row {number}"
        if row.data is not None and row.data not in file.datasets:
            hint = nearest(row.data, file.datasets)
            message = f"{place}: data {row.data!r} is not listed under datasets; {hint}"
            raise UserError(message, code="unknown-name")
        if len(row.values) != len(table.columns):
            message = f"{place}: {len(row.values)} values for {len(table.columns)} columns"
            raise UserError(message, code="bad-value")
        tasks: dict[str, dict[str, float]] = {}
        for column, value in zip(table.columns, row.values, strict=True):
            task, _, metric = column.partition("/")
            tasks.setdefault(task, {}).update({} if value is None else {metric: value})
        fields = msgspec.structs.asdict(row) | {
            "label": row.label or row.method,
            "config": {**file.configs.get(row.method, {}), **row.config},
            "dataset": file.datasets.get(row.data or "", "").lower(),
            "table": str(table.table),
            "source": table.source or file.source,
        }
        for task, metrics in tasks.items():
            yield PublishedRow(**fields, task=task, metrics=metrics)
