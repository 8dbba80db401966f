"""The ``results.json`` file that every evaluation writes: its schema, its writer and its readers.

The fields are listed, with their meaning, in ``docs/results.md``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from mls_d2.core.errors import UserError
from mls_d2.core.files import atomic_write
from mls_d2.results.migrations import RESULTS_SCHEMA, migrate

RESULTS_FILE = "results.json"
"""The file name that :func:`collect_results` looks for."""


class Backbone(TypedDict):
    """Where the initial weights came from."""

    file: str
    """Path as the user gave it; ``"random"`` for random initialisation."""
    sha256: str
    """Hex digest of the file; empty for random initialisation."""
    info: dict[str, Any]
    """The ``pretrain`` metadata of the backbone file; empty where there is none."""


class Dataset(TypedDict):
    """The data that the model was fine-tuned and evaluated on."""

    name: str
    root: str
    num_images: int
    synthetic: bool
    """True for generated scenes."""
    fingerprint: str
    """Equal for equal data; results are only compared where it is equal."""


class Device(TypedDict):
    """What a run kept busy."""

    kind: str
    """``"cuda"``, ``"cpu"``, or ``"unknown"`` where it was not recorded."""
    name: str
    """As its driver calls it; may be empty."""
    count: int
    """GPUs, or CPU threads, of all processes together; 0 where it was not recorded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluated model.

    Numbers that were not measured are NaN in memory and ``null`` in the file.
    """

    schema: int = RESULTS_SCHEMA
    method: str
    """For example ``"mls"``, ``"mocov2"``, ``"random"``."""
    backbone: Backbone
    task: str
    """For example ``"coco_mask_rcnn_fpn"``."""
    preset: str
    """``"quick"``, ``"paper"`` or ``"custom"``."""
    metrics: dict[str, dict[str, float]]
    """``{"bbox": {"AP": 40.1, …}, …}`` as Detectron2's evaluators return it; AP in percent."""
    seed: int
    dataset: Dataset
    device: Device
    config: str
    """The whole config, YAML."""
    versions: dict[str, Any]
    wall_time_s: float
    peak_memory_mb: float
    images_per_s: float
    """Training images a second."""
    finished: str
    """ISO 8601 time, UTC."""
    command: str


@dataclasses.dataclass(frozen=True)
class LocatedResult:
    """A result and the file that it was read from."""

    path: Path
    result: Result


_NUMBER = (int, float, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    "schema": (int,),
    "method": (str,),
    "backbone": (dict,),
    "task": (str,),
    "preset": (str,),
    "metrics": (dict,),
    "seed": (int,),
    "dataset": (dict,),
    "device": (dict,),
    "config": (str,),
    "versions": (dict,),
    "wall_time_s": _NUMBER,
    "peak_memory_mb": _NUMBER,
    "images_per_s": _NUMBER,
    "finished": (str,),
    "command": (str,),
    "backbone.file": (str,),
    "backbone.sha256": (str,),
    "backbone.info": (dict,),
    "dataset.name": (str,),
    "dataset.root": (str,),
    "dataset.num_images": (int,),
    "dataset.synthetic": (bool,),
    "dataset.fingerprint": (str,),
    "device.kind": (str,),
    "device.name": (str,),
    "device.count": (int,),
}


def write_result(path: str | os.PathLike[str], result: Result) -> None:
    """Write ``result`` as JSON with sorted keys; the file appears complete or not at all.

    NaN and infinities become ``null``, so that the file is JSON for every reader.

    Args:
        path: the file to write, usually ``OUTPUT_DIR/results.json``; its folder is created.
        result: what to write.

    Raises:
        UserError: if a field has a type that the schema does not allow, or the file cannot be
            written.
    """
    path = Path(path)
    fields = _plain(dataclasses.asdict(result), "")
    _check(fields, f"cannot write {path}")
    text = json.dumps(fields, indent=2, sort_keys=True, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {path.parent}: {error.strerror}") from error
    with atomic_write(str(path), "w") as file:
        file.write(text)


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read one ``results.json``.

    Files of older schema versions are migrated. Fields that the schema does not know are ignored;
    ``null`` numbers become NaN.

    Raises:
        UserError: if the file is missing, truncated, not JSON, of an unknown schema, or lacks a
            field; the message names the file and the field.
    """
    path = Path(path)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error}): it is truncated or corrupt; "
            "delete it and run that evaluation again"
        ) from error
    what = f"{path} is not a result"
    if not isinstance(fields, dict):
        raise UserError(f"{what}: expected a JSON object, got {type(fields).__name__}")
    fields = migrate(fields, what)
    _check(fields, what)
    known = {field.name: fields[field.name] for field in dataclasses.fields(Result)}
    known["metrics"] = {
        task: {name: _number(value) for name, value in values.items()}
        for task, values in known["metrics"].items()
    }
    for name in ("wall_time_s", "peak_memory_mb", "images_per_s"):
        known[name] = _number(known[name])
    return Result(**known)


def collect_results(
    folders: Iterable[str | os.PathLike[str]],
) -> tuple[list[LocatedResult], list[str]]:
    """Read every ``results.json`` below ``folders``, also behind links.

    Args:
        folders: folders to search through, or result files.

    Returns:
        The results in the order of their paths, each file once, and one message for each file
        that had to be skipped.

    Raises:
        UserError: if one of ``folders`` does not exist.
    """
    paths: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.exists():
            raise UserError(f"no such results folder: {folder}; give the folder of finished runs")
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
    """Yield the files called ``name`` below ``folder``, also behind links; each folder once."""
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


def pretraining_datasets(info: Mapping[str, Any]) -> list[str]:
    """Return the names under ``dataset`` in a backbone's metadata: one name, a list or nothing."""
    names = info.get("dataset") or []
    return [names] if isinstance(names, str) else [str(name) for name in names]


def _number(value: float | None) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _plain(value: Any, field: str) -> Any:
    """Return ``value`` with NumPy scalars, tuples and non-finite numbers made plain JSON."""
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
    raise UserError(f"result field {field[1:]!r} is a {type(value).__name__}, which is not JSON")


def _check(fields: Mapping[str, Any], what: str) -> None:
    """Raise a UserError that starts with ``what`` unless ``fields`` follow the schema."""
    for name, types in _TYPES.items():
        outer, _, inner = name.partition(".")
        holder = fields[outer] if inner else fields
        key = inner or outer
        if key not in holder:
            raise UserError(f"{what}: field {name!r} is missing")
        _check_type(holder[key], types, f"{what}: field {name!r}")
    for task, values in fields["metrics"].items():
        _check_type(values, (dict,), f"{what}: field 'metrics.{task}'")
        for metric, value in values.items():
            _check_type(value, _NUMBER, f"{what}: field 'metrics.{task}.{metric}'")


def _check_type(value: Any, types: tuple[type, ...], what: str) -> None:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        expected = " or ".join("null" if item is type(None) else item.__name__ for item in types)
        raise UserError(f"{what} is {type(value).__name__}, expected {expected}")
