"""A benchmark as cells, one run of a tool each, and what each of them needs and is made from."""

from __future__ import annotations

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
from mls_d2.config.changes import affects_results
from mls_d2.config.loading import all_keys, load_cfg
from mls_d2.core.files import sha256_of
from mls_d2.data.datasets import datasets_root
from mls_d2.results.schema import RESULTS_FILE
from mls_d2.runner.suite import Row, Suite, Task
from mls_d2.scenes import read_marker

PRETRAIN, CONVERT, TRANSFER = "pretrain", "convert", "transfer"
BACKBONE_FILE = "backbone.pth"
# Raise it when the tools compute something else from the same config, so that all cells rerun.
_FORMAT = 1
# The counts of a scenes' marker that datasets of these names do not depend on.
_OTHER_SCENES = {
    "coco": ("voc", "cityscapes"),
    "voc": ("train", "val", "unlabeled", "cityscapes"),
    "cityscapes": ("train", "val", "unlabeled", "voc"),
}
# Whether the generator was stopped between its parts says nothing of those that are used.
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
        folder = root / "tools"
        names = ("pretrain", "convert", "train_net", "report")
        return cls(*((sys.executable, str(folder / f"{name}.py")) for name in names))


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of one tool.

    Attributes:
        name: as the plan and the summary show it: ``"coco/mls-seed0"``.
        stage: ``"pretrain"``, ``"convert"`` or ``"transfer"``.
        content: plain values that decide the result, but for the weights of ``needs``.
        family: equal for cells that take as long, whatever their seed and weights.
        arguments: of the tool, but for folder and weights.
        needs: the cell that makes its weights; None where there is none.
        num_gpus: GPUs that the tool is given where there are any.
        cpus: cores that its processes and their loaders use.
    """

    name: str
    stage: str
    content: Mapping[str, Any] = field(repr=False)
    family: str
    arguments: tuple[str, ...] = ()
    needs: Cell | None = None
    num_gpus: int = 1
    cpus: int = 1

    @property
    def output(self) -> str:
        """The file that the tool writes last."""
        return RESULTS_FILE if self.stage == TRANSFER else BACKBONE_FILE

    def key(self, weights: str) -> str:
        """Return the digest of all that affects the result.

        Args:
            weights: sha256 of the weights that the cell starts from; empty for none.
        """
        return _digest({**self.content, "weights": weights})


def plan_cells(suite: Suite, *, gpus: bool) -> list[Cell]:
    """Return the cells of ``suite``, each after the one that it needs.

    Args:
        suite: what to run.
        gpus: whether there are any; else tools run as one process, whatever the suite says.

    Raises:
        UserError: a config is not readable or names unknown keys.
    """
    cells: list[Cell] = []
    for row in suite.rows:
        sources: dict[int, Cell | None] = {}
        transfers = []
        for task in suite.tasks:
            for seed in task.seeds or suite.seeds:
                group = _source_seed(row, suite, seed)
                if group not in sources:
                    sources[group] = _source(row, group, suite.num_gpus if gpus else 1)
                num_gpus = (task.num_gpus or suite.num_gpus) if gpus else 1
                transfers.append(_transfer(row, task, seed, sources[group], num_gpus))
        cells += [*filter(None, sources.values()), *transfers]
    return cells


def dependents(cells: Sequence[Cell]) -> dict[Cell, int]:
    """Return how many of ``cells`` need each of them."""
    return {cell: sum(other.needs is cell for other in cells) for cell in cells}


def _source_seed(row: Row, suite: Suite, seed: int) -> int:
    """Return the seed of what makes the weights; one where it does not draw."""
    if row.config is None:
        return 0
    return seed if suite.pretrain_seed is None else suite.pretrain_seed


def _source(row: Row, seed: int, num_gpus: int) -> Cell | None:
    """Return the cell that makes the row's weights; None for random ones."""
    if row.checkpoint is not None:
        content = {
            "stage": CONVERT,
            "checkpoint": sha256_of(str(row.checkpoint)),
            "method": row.name,
            "dataset": row.dataset,
            "epochs": row.epochs,
            "format": _FORMAT,
        }
        words = [str(row.checkpoint.resolve()), "--method", row.name]
        words += ["--dataset", *row.dataset] if row.dataset else []
        words += ["--epochs", f"{row.epochs:g}"] if row.epochs else []
        return Cell(f"convert/{row.name}", CONVERT, content, CONVERT, tuple(words))
    if row.config is None:
        return None
    return _trained(f"pretrain/{row.name}-seed{seed}", PRETRAIN, row, seed, num_gpus, None)


def _transfer(row: Row, task: Task, seed: int, source: Cell | None, num_gpus: int) -> Cell:
    return _trained(f"{task.name}/{row.name}-seed{seed}", TRANSFER, task, seed, num_gpus, source)


def _trained(
    name: str, stage: str, what: Row | Task, seed: int, num_gpus: int, needs: Cell | None
) -> Cell:
    assert what.config is not None
    config, workers = _decisive(str(what.config), what.opts)
    same_length = {"stage": stage, "config": config, "num_gpus": num_gpus}
    content = {
        **same_length,
        "seed": seed,
        "data": _data(datasets_root(), config),
        "format": _FORMAT,
        "version": mls_d2.__version__,
    }
    words = ["--config-file", str(what.config), "--resume"]
    words += ["--num-gpus", str(num_gpus)] if num_gpus > 1 else []
    words += [*what.opts, "SEED", str(seed)]
    cpus = num_gpus * (workers + 1)
    return Cell(name, stage, content, _digest(same_length), tuple(words), needs, num_gpus, cpus)


@functools.lru_cache(maxsize=256)
def _decisive(config: str, opts: tuple[str, ...]) -> tuple[Mapping[str, str], int]:
    """Return the keys of a config that decide the result, and the number of its workers."""
    cfg = load_cfg(config, opts)
    decisive = {
        key: str(functools.reduce(lambda node, part: node[part], key.split("."), cfg))
        for key in all_keys(cfg)
        if affects_results(key) and key not in ("MODEL.WEIGHTS", "SEED")
    }
    return decisive, int(cfg.DATALOADER.NUM_WORKERS)


def _data(root: str, config: Mapping[str, str]) -> Any:
    """Return what identifies the data: of scenes what they were drawn from, else the folder."""
    marker = read_marker(root)
    if marker is None:
        return os.path.realpath(root)
    names = config["DATASETS.TRAIN"] + config["DATASETS.TEST"]
    kinds = [kind for kind in _OTHER_SCENES if f"'{kind}_" in names]
    ignored = _OTHER_SCENES[kinds[0]] if len(kinds) == 1 else ()
    return {key: value for key, value in marker.items() if key not in (*ignored, *_PROGRESS)}


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
