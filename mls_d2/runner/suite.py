"""Suites: methods × tasks × seeds, from YAML or a command line, with every name looked up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta
from msgspec.structs import replace

from mls_d2.checkpoint.download import fetch, is_url
from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import YAML_FAULTS
from mls_d2.runner.onegpu import ONE_GPU, one_gpu_pretraining, one_gpu_transfer

RANDOM = "random"

Seed = Annotated[int, Meta(ge=0, lt=2**31)]
Count = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# Task: config below transfer_configs; in the paper: its ending, seeds, and GPUs if below 8 (on 8
# GPUs Detectron2's scaling rule would halve the number of iterations).
_DENSE: dict[str, tuple[str, str, tuple[int, ...], int | None]] = {
    "coco": ("coco/mask_rcnn_R_50_FPN", "1x", (0,), None),
    "coco-c4": ("coco/mask_rcnn_R_50_C4", "1x", (0,), None),
    "voc": ("voc/faster_rcnn_R_50_C4", "24k", (0, 1, 2), None),
    "cityscapes-pspnet": ("cityscapes/pspnet_R_50", "40k", (0, 1), 4),
    "cityscapes-psanet": ("cityscapes/psanet_R_50", "40k", (0, 1), 4),
}
# How the name of a classification config ends; the other configs are bases.
_PROTOCOLS = ("_finetune", "_linear", "_svm", "_knn")
_TABLE_5 = ("voc2007", "cub200", "flowers102", "cars", "aircraft", "indoor67", "pets", "dtd")
_CLASSIFICATION = {
    "quick": ("voc2007-finetune", "voc2007-svm", "voc2007-knn", "scenes-objects-finetune"),
    "paper": tuple(f"{name}-finetune" for name in _TABLE_5),
}
PRESETS = ("quick", ONE_GPU, "paper")


class Seeds(tuple[int, ...]):
    """Seeds, given as a number, a list, or text such as ``"0,1,2"``."""

    @classmethod
    def parse(cls, given: object) -> Seeds:
        """Return the seeds that a suite or a command line gives.

        Raises:
            UserError: not whole numbers from 0 up, none at all, or one of them twice.
        """
        words = list(map(str, given)) if isinstance(given, list | tuple) else _words(str(given))
        if not words or not all(re.fullmatch(r"\d{1,9}", word) for word in words):
            raise UserError(
                f"seeds must be whole numbers from 0 up, such as 0,1,2, got {given!r}",
                code="bad-value",
            )
        _check_unique(words, "seeds")
        return cls(map(int, words))


class SuiteMethod(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where backbones come from; without config, checkpoint and backbone the weights are random."""

    name: str = ""  # shown in folder names and the summary
    method: Text | None = None  # a known name, which stands for a config
    config: Path | None = None  # of the pretraining
    checkpoint: Path | None = None  # a file to convert
    backbone: Path | None = None  # a backbone file to use as it is
    needs: str = ""  # which file the user has to give as checkpoint
    opts: dict[str, Any] = {}  # config keys of the pretraining
    dataset: str | tuple[Text, ...] = ()  # what the file was pretrained on, if known
    epochs: Annotated[float, Meta(gt=0, lt=1e6)] | None = None  # of its pretraining


class SuiteTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task to fine-tune and evaluate on."""

    name: str = ""  # shown in folder names and the summary
    task: Text | None = None  # a known name, which stands for a config
    config: Path | None = None  # of the transfer
    opts: dict[str, Any] = {}  # config keys
    num_gpus: Count | None = None  # per cell; None: those of the suite, max_gpus at most
    max_gpus: Count | None = None  # of the published recipe
    seeds: Seeds | None = None  # None: those of the suite


@dataclass(frozen=True)
class Suite:
    """Methods × tasks × seeds."""

    name: str  # of the folder of its links, summary and report
    preset: str  # one of PRESETS: selects the configs that names stand for
    methods: tuple[SuiteMethod, ...]  # those that can run
    tasks: tuple[SuiteTask, ...]  # empty to pretrain alone
    seeds: tuple[int, ...]  # of fine-tuning
    pretrain_seed: int | None = 0  # None: the seed of fine-tuning
    num_gpus: int = 1  # per cell, on a machine with GPUs
    left_out: tuple[SuiteMethod, ...] = ()  # methods that need a file from the user


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    """The keys of a suite file."""

    name: str = "custom"
    preset: Literal["quick", "onegpu", "paper"] = "quick"
    methods: str | list[str | SuiteMethod] = []
    tasks: str | list[str | SuiteTask] = []
    seeds: Seeds | None = None
    pretrain_seed: Seed | Literal["follow"] = 0
    num_gpus: Count = 1


_FIELDS = {field for kind in (_Content, SuiteMethod, SuiteTask) for field in kind.__struct_fields__}


def method_configs(root: Path, preset: str) -> dict[str, Path]:
    """Return pretraining configs by name; except in quick also ``mls-800ep`` and the ablations."""
    folder = root / "pretrain" / "configs"
    if preset == "quick":
        return {path.stem.removesuffix("_quick"): path for path in folder.glob("*_quick.yaml")}
    found = {}
    for path in sorted(folder.glob("*_coco_*ep.yaml")):
        method, _, length = path.stem.partition("_coco_")
        found[method if length == "400ep" else f"{method}-{length}"] = path
    return found | {path.stem: path for path in folder.glob("ablations/*.yaml")}


def task_configs(root: Path, preset: str) -> dict[str, list[SuiteTask]]:
    """Return tasks by name; several tasks if the name is that of a group."""
    folder, quick, one = root / "transfer_configs", preset == "quick", preset == ONE_GPU
    single = {}
    for name, (stem, length, seeds, max_gpus) in _DENSE.items():
        path = folder / f"{stem}_{'quick' if quick else length}.yaml"
        task = SuiteTask(name, config=path)
        published = replace(task, seeds=Seeds(seeds), max_gpus=max_gpus)
        single[name] = task if quick or one else published
    for path in sorted((folder / "classification").glob("*.yaml")):
        stem = path.stem.removesuffix("_quick")
        if stem.endswith(_PROTOCOLS) and path.stem.endswith("_quick") == quick:
            name = stem.replace("_", "-")
            # The published batch is that of one GPU.
            single[name] = SuiteTask(name, config=path, max_gpus=None if quick else 1)
    names: dict[str, Sequence[str]] = {name: (name,) for name in single}
    names["cityscapes"] = ("cityscapes-pspnet", "cityscapes-psanet")
    names["cls"] = _CLASSIFICATION["quick" if quick else "paper"]
    names["all"] = (*_DENSE, *names["cls"])
    names["demo"] = ("coco", "scenes-objects-knn") if quick else ("coco",)
    there = {name for name, task in single.items() if task.config and task.config.is_file()}
    found = {
        name: [single[item] for item in members if item in there] for name, members in names.items()
    }
    return {name: tasks for name, tasks in found.items() if tasks}


def read_suite(path: Path) -> dict[str, Any]:
    """Read a suite file; :func:`build_suite` checks its content.

    Raises:
        UserError: missing, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        others = sorted(item.name for item in path.parent.glob("*.yaml"))
        hint = f"; {nearest(path.name, others)}" if others else ""
        raise UserError(
            f"cannot read the suite '{path}': {error.strerror}{hint}", code="missing-file"
        ) from None
    except YAML_FAULTS as error:
        reason = " ".join(str(error).split())
        raise UserError(f"'{path}' is not YAML: {reason}", code="bad-suite") from None
    if not isinstance(content, dict):
        keys = ", ".join(_Content.__struct_fields__)
        raise UserError(f"'{path}' must be a mapping with the keys {keys}", code="bad-suite")
    return {"name": path.stem} | content


def build_suite(
    content: Mapping[str, Any],
    root: Path,
    *,
    checkpoints: Mapping[str, Path] | None = None,
    opts: Sequence[str] = (),
) -> Suite:
    """Return the suite that ``content`` describes, with every name looked up.

    Args:
        content: the keys of a suite file; without ``tasks`` the suite pretrains alone.
        root: of the checkout, the folder of the configs.
        checkpoints: files by method: they complete methods that need one, or are further methods.
        opts: ``KEY VALUE`` words for every task; for every method if there are no tasks.

    Raises:
        UserError: an unknown name (names the nearest), a missing file, or a bad value.
    """
    given = _convert(content)
    _check_name(given.name, "the suite")
    if given.preset == ONE_GPU and given.num_gpus > 1:
        raise UserError(
            f"preset {ONE_GPU} is for one GPU, got num_gpus {given.num_gpus}; preset paper is for "
            "several",
            code="bad-value",
        )
    if given.name == "cells":
        raise UserError("a suite cannot have the name 'cells': it is reserved", code="bad-value")
    methods = [_method(item, root, given.preset) for item in _items(given.methods)]
    methods = _complete(methods, checkpoints or {})
    if not methods:
        raise UserError(f"suite '{given.name}' has no methods", code="bad-suite")
    tasks = [task for item in _items(given.tasks) for task in _tasks(item, root, given)]
    if len(opts) % 2:
        raise UserError(f"options must be KEY VALUE pairs, got {' '.join(opts)}", code="bad-value")
    late = dict(zip(opts[::2], opts[1::2], strict=True))
    if tasks:
        tasks = [replace(task, opts=task.opts | late) for task in tasks]
    else:
        methods = [
            replace(item, opts=item.opts | late) if item.config else item for item in methods
        ]
    _check_unique([item.name for item in methods], "methods")
    _check_unique([task.name for task in tasks], "tasks")
    return Suite(
        name=given.name,
        preset=given.preset,
        methods=tuple(item for item in methods if not item.needs),
        tasks=tuple(tasks),
        seeds=(0,) if given.seeds is None else given.seeds,
        pretrain_seed=given.pretrain_seed if isinstance(given.pretrain_seed, int) else None,
        num_gpus=given.num_gpus,
        left_out=tuple(item for item in methods if item.needs),
    )


def _convert(content: Mapping[str, Any]) -> _Content:
    def decode(kind: type, value: object) -> object:
        if kind is Seeds:
            return Seeds.parse(value)
        return kind(fetch(value) if isinstance(value, str) and is_url(value) else value)

    try:
        return msgspec.convert(dict(content), _Content, dec_hook=decode)
    except msgspec.ValidationError as error:
        unknown = re.search(r"unknown field `(.*?)`|enum value '(.*?)'", str(error))
        field, value = unknown.groups() if unknown else ("", "")
        hint = f"; {nearest(field, _FIELDS)}" if field else ""
        hint = f"; {nearest(value, (*PRESETS, 'follow'))}" if value else hint
        raise UserError(
            f"suite '{content.get('name', 'custom')}': {error}{hint} ($ is the suite; "
            "docs/benchmark.md lists keys and values)",
            code="bad-suite",
        ) from None


def _items(given: str | list[Any]) -> list[Any]:
    return _words(given) if isinstance(given, str) else given


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _method(item: str | SuiteMethod, root: Path, preset: str) -> SuiteMethod:
    entry = SuiteMethod(method=item) if isinstance(item, str) else item
    sources = ("method", "config", "checkpoint", "backbone", "needs")
    given = [source for source in sources if getattr(entry, source)]
    name = entry.name or entry.method or ""
    _check_name(name, "a method")
    if len(given) != 1:
        raise UserError(
            f"method '{name}' must have one of {', '.join(sources)}, got "
            f"{', '.join(given) or 'none'}",
            code="bad-suite",
        )
    for path in filter(None, (entry.config, entry.checkpoint, entry.backbone)):
        _check_file(path, name)
    if (entry.dataset or entry.epochs) and not (entry.checkpoint or entry.needs):
        raise UserError(
            f"dataset and epochs of method '{name}' are for a checkpoint; backbone files of this "
            "project already contain them",
            code="bad-suite",
        )
    config = entry.config
    if entry.method and entry.method != RANDOM:
        config = _find(entry.method, method_configs(root, preset), "method", preset, RANDOM)
    if entry.opts and config is None:
        raise UserError(
            f"opts of method '{name}' have no effect, because it is not pretrained here; give them "
            "to the task",
            code="bad-suite",
        )
    dataset = (entry.dataset,) if isinstance(entry.dataset, str) else entry.dataset
    opts = entry.opts
    if preset == ONE_GPU and config is not None and entry.config is None:
        opts = one_gpu_pretraining(config) | opts
    return replace(entry, name=name, config=config, dataset=dataset, opts=opts)


def _complete(methods: list[SuiteMethod], files: Mapping[str, Path]) -> list[SuiteMethod]:
    for name, path in files.items():
        _check_name(name, "--checkpoint")
        _check_file(path, name)
    filled = [
        replace(method, checkpoint=files[method.name], needs="")
        if method.needs and method.name in files
        else method
        for method in methods
    ]
    waiting = {method.name for method in methods if method.needs}
    return filled + [
        SuiteMethod(name, checkpoint=path) for name, path in files.items() if name not in waiting
    ]


def _tasks(item: str | SuiteTask, root: Path, content: _Content) -> list[SuiteTask]:
    entry = SuiteTask(task=item) if isinstance(item, str) else item
    if (entry.task is None) == (entry.config is None):
        raise UserError(
            f"task '{entry.name}' must have either task, a known name, or config", code="bad-suite"
        )
    if entry.config is not None:
        _check_file(entry.config, entry.name)
        found = [entry]
    else:
        known = task_configs(root, content.preset)
        found = _find(str(entry.task), known, "task", content.preset)
    if entry.name and len(found) > 1:
        raise UserError(
            f"task '{entry.task}' stands for {len(found)} tasks, which need a name each",
            code="bad-suite",
        )
    tasks = [
        replace(
            entry,
            name=entry.name or task.name,
            config=task.config,
            max_gpus=entry.max_gpus or task.max_gpus,
            opts=_shortened(task, content.preset) | entry.opts if entry.task else entry.opts,
            # The seeds of the published recipe if nothing else is asked for.
            seeds=entry.seeds or (task.seeds if content.seeds is None else None),
        )
        for task in found
    ]
    for task in tasks:
        _check_name(task.name, "a task")
    return tasks


def _shortened(task: SuiteTask, preset: str) -> dict[str, Any]:
    return one_gpu_transfer(task.config) if preset == ONE_GPU and task.config else {}


def _find(name: str, known: Mapping[str, Any], kind: str, preset: str, *others: str) -> Any:
    if name not in known:
        raise UserError(
            f"unknown {kind} '{name}' in preset {preset}; {nearest(name, [*known, *others])}",
            code="unknown-name",
        )
    return known[name]


def _check_file(path: Path, name: str) -> None:
    if not path.is_file():
        names = [item.name for item in path.parent.glob("*") if item.is_file()]
        hint = f"; {nearest(path.name, names)}" if names else ""
        raise UserError(f"'{name}': there is no file '{path}'{hint}", code="missing-file")


def _check_name(name: str, whose: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{whose} needs a name of letters, digits, '.', '_' and '-' (it is used as a folder "
            f"name), got {name!r}",
            code="bad-value",
        )


def _check_unique(names: Sequence[str], kind: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{kind}: more than once: {', '.join(map(repr, twice))}", code="bad-value")
