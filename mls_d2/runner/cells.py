"""A suite as cells, one run of one tool each: what each needs, and what its result depends on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mls_d2
from mls_d2.config.changes import affects_results, flatten
from mls_d2.config.loading import load_cfg
from mls_d2.core.files import sha256_of
from mls_d2.data.dataset_files import datasets_root
from mls_d2.results.schema import RESULTS_FILE
from mls_d2.runner.suite import Suite, SuiteMethod, SuiteTask
from mls_d2.scenes import read_marker

PRETRAIN, CONVERT, TRANSFER = "pretrain", "convert", "transfer"
BACKBONE_FILE = "backbone.pth"
# Raise it when the tools compute something else from the same config, so that all cells rerun.
_FORMAT = 1
# Which part of the scenes a dataset reads, by how its name begins.
_PARTS = {
    "coco_": "coco",
    "scenes_objects_": "coco",
    "voc_": "voc",
    "voc2007_": "voc",
    "cityscapes_": "cityscapes",
}
# Which counts of the scenes' marker belong to each part.
_COUNTS = {"coco": ("train", "val", "unlabeled"), "voc": ("voc",), "cityscapes": ("cityscapes",)}
# Whether the generator was stopped between its parts says nothing about those that are used.
_PROGRESS = ("finished", "complete")


@dataclass(frozen=True)
class Tools:
    """The command lines of the tools, each without its arguments."""

    pretrain: tuple[str, ...]
    convert: tuple[str, ...]
    train_net: tuple[str, ...]
    report: tuple[str, ...]

    @classmethod
    def below(cls, root: Path) -> Tools:
        """Return those of a checkout, run by this Python."""
        names = ("pretrain", "convert", "train_net", "report")
        return cls(*((sys.executable, str(root / "tools" / f"{name}.py")) for name in names))


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of one tool."""

    name: str  # in the plan and the summary: "coco/mls-seed0"
    stage: str  # "pretrain", "convert" or "transfer"
    content: Mapping[str, Any] = field(repr=False)  # decides the result, except the weights
    family: str  # equal for cells that take equally long: same recipe, any seed and weights
    recipe: tuple[str, tuple[str, ...]] = ("", ())  # config file and KEY VALUE words
    arguments: tuple[str, ...] = ()  # of the tool, except folder and weights
    needs: Cell | None = None  # makes its weights
    weights: Path | None = None  # a backbone file of the user to start from
    num_gpus: int = 1  # on a machine with GPUs
    cpus: int = 1  # cores that its processes and their loaders use

    @property
    def output(self) -> str:
        """The file that the tool writes last."""
        return RESULTS_FILE if self.stage == TRANSFER else BACKBONE_FILE

    def key(self, weights: str) -> str:
        """Return the digest of all that affects the result, given the sha256 of the weights."""
        return _digest({**self.content, "weights": weights})


def plan_cells(suite: Suite, *, gpus: bool) -> list[Cell]:
    """Return the cells of a suite, each after the one that it needs.

    Without ``gpus`` each tool runs as one process.

    Raises:
        UserError: a config is not readable or has unknown keys.
    """
    cells: list[Cell] = []
    runs = [(task, seed) for task in suite.tasks for seed in task.seeds or suite.seeds]
    for method in suite.methods:
        sources: dict[int, Cell | None] = {}
        for seed in [seed for _, seed in runs] or suite.seeds:
            number = _source_seed(method, suite, seed)
            if number not in sources:
                sources[number] = _source(method, number, suite.num_gpus if gpus else 1)
        cells += filter(None, sources.values())
        for task, seed in runs:
            num_gpus = task.num_gpus or min(suite.num_gpus, task.max_gpus or suite.num_gpus)
            source = sources[_source_seed(method, suite, seed)]
            cells.append(_transfer(method, task, seed, source, num_gpus if gpus else 1))
    return cells


def dependents(cells: Sequence[Cell]) -> dict[Cell, int]:
    """Return how many of ``cells`` need each of them."""
    return {cell: sum(other.needs is cell for other in cells) for cell in cells}


def parts_of_scenes(suite: Suite) -> set[str]:
    """Return which parts of the scenes a suite reads: of ``coco``, ``voc`` and ``cityscapes``."""
    items: list[SuiteMethod | SuiteTask] = [*suite.methods, *suite.tasks]
    configs = [_decisive(str(item.config), _words(item.opts))[0] for item in items if item.config]
    return set().union(*map(_parts, configs))


def _source_seed(method: SuiteMethod, suite: Suite, seed: int) -> int:
    """Return the seed of the cell that makes the weights; 0 if that draws nothing."""
    if method.config is None:
        return 0
    return seed if suite.pretrain_seed is None else suite.pretrain_seed


def _source(method: SuiteMethod, seed: int, num_gpus: int) -> Cell | None:
    """Return the cell that makes the weights of a method; None if none has to be made."""
    if method.config is not None:
        name = f"pretrain/{method.name}-seed{seed}"
        return _trained(name, PRETRAIN, method.config, method.opts, seed, num_gpus)
    if method.checkpoint is None:
        return None
    content = {
        "stage": CONVERT,
        "checkpoint": sha256_of(str(method.checkpoint)),
        "method": method.name,
        "dataset": method.dataset,
        "epochs": method.epochs,
        "format": _FORMAT,
    }
    words = [str(method.checkpoint.resolve()), "--method", method.name]
    words += ["--dataset", *method.dataset] if method.dataset else []
    words += ["--epochs", f"{method.epochs:g}"] if method.epochs else []
    return Cell(f"convert/{method.name}", CONVERT, content, CONVERT, arguments=tuple(words))


def _transfer(
    method: SuiteMethod, task: SuiteTask, seed: int, source: Cell | None, num_gpus: int
) -> Cell:
    assert task.config is not None
    name = f"{task.name}/{method.name}-seed{seed}"
    cell = _trained(name, TRANSFER, task.config, task.opts, seed, num_gpus)
    return dataclasses.replace(
        cell, needs=source, weights=method.backbone and method.backbone.resolve()
    )


def _trained(
    name: str, stage: str, path: Path, opts: Mapping[str, Any], seed: int, num_gpus: int
) -> Cell:
    words = _words(opts)
    config, workers = _decisive(str(path), words)
    same_length = {"stage": stage, "config": config, "num_gpus": num_gpus}
    content = {
        **same_length,
        "seed": seed,
        "data": _data(datasets_root(), config),
        "format": _FORMAT,
        "version": mls_d2.__version__,
    }
    gpus = ("--num-gpus", str(num_gpus)) if num_gpus > 1 else ()
    return Cell(
        name=name,
        stage=stage,
        content=content,
        family=_digest(same_length),
        recipe=(str(path), words),
        arguments=("--config-file", str(path), "--resume", *gpus, *words, "SEED", str(seed)),
        num_gpus=num_gpus,
        cpus=num_gpus * (workers + 1),
    )


def _words(opts: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(word) for pair in opts.items() for word in pair)


@functools.lru_cache(maxsize=256)
def _decisive(config: str, opts: tuple[str, ...]) -> tuple[Mapping[str, str], int]:
    """Return the keys of a config that the result depends on, and the number of its workers."""
    cfg = load_cfg(config, opts)
    decisive = {
        key: str(value)
        for key, value in flatten(cfg).items()
        if affects_results(key) and key not in ("MODEL.WEIGHTS", "SEED")
    }
    return decisive, int(cfg.DATALOADER.NUM_WORKERS)


def _parts(config: Mapping[str, str]) -> set[str]:
    names = config["DATASETS.TRAIN"] + config["DATASETS.TEST"]
    return {part for begin, part in _PARTS.items() if f"'{begin}" in names}


def _data(root: str, config: Mapping[str, str]) -> Any:
    """Return what identifies the data: the parameters of scenes, otherwise the folder."""
    marker = read_marker(root)
    if marker is None:
        return os.path.realpath(root)
    used = _parts(config) or _COUNTS.keys()
    ignored = {name for part, names in _COUNTS.items() if part not in used for name in names}
    return {key: value for key, value in marker.items() if key not in {*ignored, *_PROGRESS}}


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
