"""``results.json``, which every evaluation writes: its schema, its writer and its readers.

The fields are listed, with their meaning, in ``docs/results.md``.
"""

import dataclasses
import json
import math
import numbers
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mls_d2.core.errors import UserError
from mls_d2.core.files import atomic_write

RESULTS_FILE = "results.json"
"""The file name that :func:`collect_results` looks for."""

RESULTS_SCHEMA = 2
"""The version of the schema that is written."""


class InitialWeights(msgspec.Struct, frozen=True, kw_only=True):
    """The backbone file that a run started from."""

    file: str  # path as the user gave it; "random" for random initialisation
    sha256: str  # hex digest of the file; empty for random initialisation
    info: dict[str, Any]  # the file's ``pretrain`` metadata; empty if there is none

    @property
    def datasets(self) -> list[str]:
        """The names of the pretraining datasets; empty if they are not recorded."""
        names = self.info.get("dataset") or []
        return [str(name) for name in (names if isinstance(names, list) else [names])]

    @property
    def synthetic(self) -> bool:
        """Whether it was pretrained on generated scenes."""
        return bool(self.info.get("synthetic"))


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """The data that the model was fine-tuned and evaluated on."""

    name: str
    root: str
    num_images: int
    synthetic: bool  # generated scenes
    fingerprint: str  # equal for equal data; only results with equal ones are compared


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """The hardware that a run computed on."""

    kind: str  # "cuda", "cpu", or "unknown" if it was not recorded
    name: str  # as its driver reports it; may be empty
    count: int  # GPUs, or CPU threads, of all processes together; 0 if it was not recorded


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluated model.

    Numbers that were not measured are NaN in memory and ``null`` in the file.
    """

    schema: int = RESULTS_SCHEMA
    method: str  # for example "mls", "mocov2", "random"
    backbone: InitialWeights
    task: str  # for example "coco_mask_rcnn_fpn"
    preset: str  # "quick", "onegpu", "paper" or "custom"
    metrics: dict[str, dict[str, float]]  # {"bbox": {"AP": 40.1, …}, …}, in percent
    seed: int
    dataset: Dataset
    device: Device
    config: str  # the whole config, YAML
    versions: dict[str, Any]
    wall_time_s: float
    peak_memory_mb: float
    images_per_s: float  # in training
    finished: str  # ISO 8601, UTC
    command: str


@dataclasses.dataclass(frozen=True)
class LocatedResult:
    """A result and the file that it was read from."""

    path: Path
    result: Result


def write_result(path: str | os.PathLike[str], result: Result) -> None:
    """Write ``result`` as JSON with sorted keys; the file appears complete or not at all.

    The folder is created. NaN and infinities become ``null``, so that every JSON parser reads it.

    Raises:
        UserError: a field has a type that the schema does not allow, or the file cannot be written.
    """
    path = Path(path)
    fields = _plain(result, "")
    _from_fields(fields, f"cannot write {path}", code="bad-value")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot create {path.parent}: {error.strerror}; choose another folder"
        raise UserError(message, code="unwritable") from error
    with atomic_write(str(path), "w") as file:
        file.write(json.dumps(fields, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read one ``results.json`` of this or an older schema version.

    Fields that the schema does not have are ignored; ``null`` numbers become NaN.

    Raises:
        UserError: the file is missing, truncated, not JSON, of an unsupported schema version, or a
            field is missing or has a wrong type; the message names the file and the field.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", code="missing-file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error}): it is truncated or damaged; "
            "delete it and run that evaluation again",
            code="damaged-file",
        ) from error
    what = f"{path} is not a result"
    if not isinstance(fields, dict):
        got = type(fields).__name__
        raise UserError(f"{what}: expected a JSON object, got {got}", code="damaged-file")
    return _from_fields(_migrate(fields, what), what, code="damaged-file")


def collect_results(
    folders: Iterable[str | os.PathLike[str]],
) -> tuple[list[LocatedResult], list[str]]:
    """Read every ``results.json`` below ``folders`` (or such files), also behind links.

    Returns:
        The results in the order of their paths, each file once, and one message for each file
        that had to be skipped.

    Raises:
        UserError: if one of ``folders`` does not exist.
    """
    paths: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.exists():
            message = f"no such results folder: {folder}; give the folder of finished runs"
            raise UserError(message, code="missing-file")
        for path in files_below(folder, RESULTS_FILE) if folder.is_dir() else [folder]:
            paths.setdefault(path.resolve(), path)
    results: list[LocatedResult] = []
    problems: list[str] = []
    for path in sorted(paths.values()):
        try:
            results.append(LocatedResult(path, read_result(path)))
        except UserError as error:
            problems.append(str(error))
    return results, problems


def files_below(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files named ``name`` below ``folder``, also behind links; each folder once."""
    seen: set[str] = set()
    for here, inner, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner.sort()
        if name in names:
            yield Path(here, name)


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    # Version 1 did not record the device.
    1: lambda fields: {**fields, "device": {"kind": "unknown", "name": "", "count": 0}}
}
"""From each older version to the next one; a new schema version adds one function."""


def _migrate(fields: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the fields of a result of any supported version in version RESULTS_SCHEMA."""
    schema: Any = fields.get("schema")
    versions = [*_MIGRATIONS, RESULTS_SCHEMA]
    if isinstance(schema, bool) or schema not in versions:
        newer = isinstance(schema, int) and schema > RESULTS_SCHEMA
        remedy = "update mls_d2, a newer one wrote it" if newer else "run that evaluation again"
        message = f"{what}: schema {schema!r}, expected one of {versions}; {remedy}"
        raise UserError(message, code="unknown-version")
    for version in range(schema, RESULTS_SCHEMA):
        fields = _MIGRATIONS[version](fields)
    return {**fields, "schema": RESULTS_SCHEMA}


def _from_fields(fields: Mapping[str, Any], what: str, *, code: str) -> Result:
    """Return a validated result; the message of a UserError starts with ``what``."""

    def number(name: str, value: Any) -> float:
        # Not left to msgspec, whose messages do not name the keys of a mapping.
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            got = type(value).__name__
            message = f"{what}: field '{name}' is {got}, expected a number or null"
            raise UserError(message, code=code)
        try:
            return float(value) if value is not None and math.isfinite(value) else math.nan
        except OverflowError:  # An integer beyond the largest float.
            return math.nan

    measured = ("wall_time_s", "peak_memory_mb", "images_per_s")
    numeric: dict[str, Any] = {key: number(key, fields[key]) for key in measured if key in fields}
    metrics = fields.get("metrics")
    if isinstance(metrics, dict):
        numeric["metrics"] = {
            key: {name: number(f"metrics.{key}.{name}", value) for name, value in values.items()}
            if isinstance(values, dict)
            else values
            for key, values in metrics.items()
        }
    try:
        return msgspec.convert({**fields, **numeric}, Result)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise UserError(f"{what}: {error}", code=code) from error


def _plain(value: Any, field: str) -> Any:
    """Return ``value`` as plain JSON: structs, NumPy scalars, tuples, non-finite numbers."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{field}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, field) for item in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    message = f"result field {field[1:]!r} is a {type(value).__name__}, expected a JSON value"
    raise UserError(message, code="bad-value")
