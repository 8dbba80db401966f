"""What a benchmark is to run: rows (methods or checkpoints) × tasks × seeds, read and checked."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mls_d2.core.errors import UserError, nearest
from mls_d2.runner.catalog import PRESETS, RANDOM, Catalog

FOLLOW = "follow"
_KEYS = ("name", "preset", "methods", "tasks", "seeds", "pretrain_seed", "num_gpus")
_ROW_KEYS = ("name", "method", "config", "checkpoint", "needs", "opts", "dataset", "epochs")
_TASK_KEYS = ("name", "task", "config", "opts", "num_gpus", "seeds")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Row:
    """Where backbones come from.

    Attributes:
        name: how folders and the summary call it.
        config: of the pretraining; None where there is none.
        checkpoint: a file to convert; None where there is none. With neither: random weights.
        opts: ``KEY VALUE`` words for the pretraining.
        needs: what file the user has to give as ``checkpoint``; empty where none is missing.
        dataset: names of what the file was pretrained on; empty where nothing is known.
        epochs: of its pretraining; None where nothing is known.
    """

    name: str
    config: Path | None = None
    checkpoint: Path | None = None
    opts: tuple[str, ...] = ()
    needs: str = ""
    dataset: tuple[str, ...] = ()
    epochs: float | None = None


@dataclass(frozen=True)
class Task:
    """A benchmark to fine-tune and evaluate on.

    Attributes:
        name: how folders and the summary call it.
        config: of the transfer.
        opts: ``KEY VALUE`` words.
        num_gpus: GPUs of a job; None for those of the suite.
        seeds: of its own; None for those of the suite.
    """

    name: str
    config: Path
    opts: tuple[str, ...] = ()
    num_gpus: int | None = None
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Suite:
    """Rows × tasks × seeds.

    Attributes:
        name: of the folder of its state and report.
        preset: whose configs names stand for.
        rows: see :class:`Row`; those whose file is missing are in ``left_out``.
        tasks: see :class:`Task`.
        seeds: of fine-tuning.
        pretrain_seed: of pretraining; None where it follows the fine-tuning's.
        num_gpus: GPUs of a job, where there are any.
        left_out: rows that need a file from the user.
    """

    name: str
    preset: str
    rows: tuple[Row, ...]
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    pretrain_seed: int | None = 0
    num_gpus: int = 1
    left_out: tuple[Row, ...] = ()


def read_suite(path: Path) -> dict[str, Any]:
    """Read a suite file; :func:`build_suite` checks what it says.

    Raises:
        UserError: missing, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        others = sorted(item.name for item in path.parent.glob("*.yaml"))
        hint = f"; {nearest(path.name, others)}" if others else ""
        raise UserError(f"cannot read the suite '{path}': {error.strerror}{hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' must be a mapping with the keys {', '.join(_KEYS)}")
    return {"name": path.stem} | content


def build_suite(
    content: Mapping[str, Any], root: Path, *, checkpoints: Mapping[str, Path] | None = None
) -> Suite:
    """Return the suite that ``content`` describes, with every name looked up.

    Args:
        content: the keys of a suite file (``docs/benchmark.md``).
        root: of the checkout, where the configs that names stand for are.
        checkpoints: files by row: they fill in rows that need one, or are rows of their own.

    Raises:
        UserError: an unknown key, method, task or preset (names the nearest), a bad seed list, a
            config or checkpoint that is not there, two rows or tasks of one name.
    """
    _known_keys(content, _KEYS, "the suite")
    preset = str(content.get("preset", "quick"))
    if preset not in PRESETS:
        raise UserError(f"preset '{preset}' is not known; {nearest(preset, PRESETS)}")
    catalog = Catalog(root, preset)
    rows = [_row(item, catalog) for item in _list(content, "methods")]
    rows = _fill_in(rows, checkpoints or {})
    tasks = [task for item in _list(content, "tasks") for task in _tasks(item, catalog)]
    for kind, names in (("methods", rows), ("tasks", tasks)):
        _check_unique([item.name for item in names], kind)
    seed = content.get("pretrain_seed", 0)
    return Suite(
        name=_checked_name(content.get("name", "custom"), "the suite"),
        preset=preset,
        rows=tuple(row for row in rows if not row.needs),
        tasks=tuple(tasks),
        seeds=parse_seeds(content.get("seeds", [0])),
        pretrain_seed=None if seed == FOLLOW else _one_seed(seed, f"'{FOLLOW}' or a number"),
        num_gpus=_gpus(content.get("num_gpus", 1)),
        left_out=tuple(row for row in rows if row.needs),
    )


def parse_seeds(given: object) -> tuple[int, ...]:
    """Return the seeds of a list, or of text such as ``"0,1,2"`` or ``"0 1 2"``.

    Raises:
        UserError: empty, not whole numbers from 0 up, or one of them twice.
    """
    items = re.split(r"[,\s]+", given.strip(", ")) if isinstance(given, str) else given
    items = [items] if isinstance(items, int) else items
    if not isinstance(items, list) or not items:
        raise UserError(f"seeds must be a list such as 0,1,2, got {given!r}")
    seeds = tuple(_one_seed(item, "a list of them such as 0,1,2") for item in items)
    _check_unique([str(seed) for seed in seeds], "seeds")
    return seeds


def _one_seed(given: object, expected: str) -> int:
    text = str(given)
    if isinstance(given, bool) or not re.fullmatch(r"\d+", text) or int(text) >= 2**31:
        raise UserError(f"seed '{text}' is not a whole number from 0 up; expected {expected}")
    return int(text)


def _gpus(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise UserError(f"num_gpus must be a whole number from 1 up, got {given!r}")
    return given


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    given = content.get(key)
    items = given.replace(",", " ").split() if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        raise UserError(f"'{key}' must be a list of at least one, got {given!r}")
    return items


def _row(item: object, catalog: Catalog) -> Row:
    if isinstance(item, str):
        item = {"method": item}
    if not isinstance(item, dict):
        raise UserError(f"a method is a name or a mapping, got {item!r}")
    _known_keys(item, _ROW_KEYS, f"method {item.get('name', item)!r}")
    sources = [key for key in ("method", "config", "checkpoint", "needs") if key in item]
    if len(sources) != 1:
        raise UserError(
            f"method {item!r} must have one of method, config, checkpoint or needs, "
            f"and has {', '.join(sources) or 'none'}"
        )
    row = _named_row(item, sources[0], catalog)
    opts = _opts(item.get("opts", {}), f"method '{row.name}'")
    if opts and row.config is None:
        raise UserError(
            f"opts of method '{row.name}' change nothing, for it is not pretrained here; "
            "give them to the task"
        )
    origin = _origin(item, row.name)
    if origin and not (row.checkpoint or row.needs):
        raise UserError(
            f"{' and '.join(origin)} of method '{row.name}' belong to a checkpoint; what is "
            "pretrained here says it itself"
        )
    return dataclasses.replace(row, opts=opts, **origin)


def _named_row(item: Mapping[str, Any], source: str, catalog: Catalog) -> Row:
    value = item[source]
    name = _checked_name(item.get("name", value if source == "method" else None), f"{item!r}")
    if source == "needs":
        return Row(name, needs=str(value))
    if source == "checkpoint":
        return Row(name, checkpoint=_existing(value, f"checkpoint of '{name}'"))
    if source == "config":
        return Row(name, config=_existing(value, f"config of '{name}'"))
    return Row(name) if value == RANDOM else Row(name, catalog.find_method(str(value)))


def _origin(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what a row says of its file's pretraining, as fields of :class:`Row`."""
    found: dict[str, Any] = {}
    if "dataset" in item:
        given = item["dataset"]
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list) or not names or not all(map(_is_text, names)):
            raise UserError(
                f"dataset of method '{name}' must be a name or a list of them, got {given!r}"
            )
        found["dataset"] = tuple(names)
    if "epochs" in item:
        given = item["epochs"]
        number = isinstance(given, int | float) and not isinstance(given, bool)
        if not number or not 0 < given < math.inf:
            raise UserError(f"epochs of method '{name}' must be a number above 0, got {given!r}")
        found["epochs"] = float(given)
    return found


def _is_text(given: object) -> bool:
    return isinstance(given, str) and bool(given)


def _fill_in(rows: Sequence[Row], checkpoints: Mapping[str, Path]) -> list[Row]:
    for name, path in checkpoints.items():
        _checked_name(name, "--checkpoint")
        _existing(path, f"checkpoint of '{name}'")
    filled = [
        dataclasses.replace(row, checkpoint=checkpoints[row.name], needs="")
        if row.needs and row.name in checkpoints
        else row
        for row in rows
    ]
    waiting = {row.name for row in rows if row.needs}
    return filled + [
        Row(name, checkpoint=path) for name, path in checkpoints.items() if name not in waiting
    ]


def _tasks(item: object, catalog: Catalog) -> list[Task]:
    if isinstance(item, str):
        return [Task(name, path) for name, path in catalog.find_task(item)]
    if not isinstance(item, dict):
        raise UserError(f"a task is a name or a mapping, got {item!r}")
    _known_keys(item, _TASK_KEYS, f"task {item.get('name', item)!r}")
    if ("task" in item) == ("config" in item):
        raise UserError(f"task {item!r} must have either task, a known name, or config")
    if "task" in item:
        found = catalog.find_task(str(item["task"]))
    else:
        name = _checked_name(item.get("name"), f"{item!r}")
        found = [(name, _existing(item["config"], f"config of task '{name}'"))]
    if "name" in item:
        if len(found) > 1:
            raise UserError(f"task {item!r} stands for {len(found)} tasks, which need a name each")
        found = [(_checked_name(item["name"], f"{item!r}"), found[0][1])]
    gpus = _gpus(item["num_gpus"]) if "num_gpus" in item else None
    seeds = parse_seeds(item["seeds"]) if "seeds" in item else None
    return [
        Task(name, path, _opts(item.get("opts", {}), f"task '{name}'"), gpus, seeds)
        for name, path in found
    ]


def _opts(given: object, whose: str) -> tuple[str, ...]:
    if not isinstance(given, dict):
        raise UserError(f"opts of {whose} must be a mapping of config keys, got {given!r}")
    return tuple(str(word) for pair in given.items() for word in pair)


def _existing(given: object, what: str) -> Path:
    path = Path(str(given))
    if not path.is_file():
        names = [item.name for item in path.parent.glob("*") if item.is_file()]
        hint = f"; {nearest(path.name, names)}" if names else ""
        raise UserError(f"{what}: there is no file '{path}'{hint}")
    return path


def _checked_name(given: object, whose: str) -> str:
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        raise UserError(
            f"{whose} needs a name of letters, digits, '.', '_' and '-' (it becomes a folder), "
            f"got {given!r}"
        )
    return given


def _known_keys(content: Mapping[Any, Any], known: Sequence[str], what: str) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{what} has an unknown key '{key}'; {nearest(str(key), known)}")


def _check_unique(names: Sequence[str], kind: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{kind} has {', '.join(map(repr, twice))} more than once")
