"""The state of an OUTPUT_DIR: empty, or with a run that may be resumed or is finished."""

import enum
import json
import logging
import os
from collections.abc import Mapping, Sequence

import yaml
from detectron2.config import CfgNode

from mls_d2.config.changes import RESUMABLE_CHANGES, config_changes, differences
from mls_d2.core.errors import UserError
from mls_d2.run.checkpointer import list_checkpoints
from mls_d2.run.environment import CONFIG_FILE, ENVIRONMENT_FILE

logger = logging.getLogger(__name__)

_REFERENCE = "SOLVER.REFERENCE_WORLD_SIZE"
# The batch, rate and length that follow from the reference are compared instead.
_MAY_DIFFER = (*RESUMABLE_CHANGES, _REFERENCE)


class RunState(enum.Enum):
    """What to do with a run."""

    NEW = "start from iteration 0"
    RESUME = "continue from the last checkpoint"
    FINISHED = "nothing is left to do"


def run_state(
    cfg: CfgNode, final_file: str, *, resume: bool, inputs: Mapping[str, str] | None = None
) -> RunState:
    """Return what to do in ``cfg.OUTPUT_DIR``.

    Args:
        cfg: the config of the run. ``SEED`` below zero becomes the one that the run drew.
        final_file: name of the file that a run writes last.
        resume: whether the user asked to continue.
        inputs: digests of input files by name, as an earlier process stored them in
            ``environment.json`` under ``"inputs"``.

    Raises:
        UserError: the folder holds a finished or unfinished run of another config or other inputs,
            or an unfinished run of this one without ``resume``.
    """
    folder = cfg.OUTPUT_DIR
    finished = os.path.isfile(os.path.join(folder, final_file))
    started = bool(list_checkpoints(folder))
    if not finished and not started:
        return RunState.NEW
    saved = _read(folder, CONFIG_FILE)
    changes = config_changes(saved, cfg.dump(), _MAY_DIFFER)
    if cfg.SEED < 0:
        cfg.SEED = yaml.safe_load(saved).get("SEED", cfg.SEED)
        changes = config_changes(saved, cfg.dump(), _MAY_DIFFER)
    _refuse(folder, changes + _input_changes(folder, inputs or {}), _other_processes(saved, cfg))
    if finished:
        return RunState.FINISHED
    if not resume:
        raise UserError(
            f"'{folder}' holds an unfinished run of this config; continue it with --resume, choose "
            "another OUTPUT_DIR, or remove that folder",
            code="unfinished-run",
        )
    return RunState.RESUME


def check_no_run(folder: str, final_file: str) -> None:
    """Make sure that the folder of an evaluation alone holds neither a run nor its ``final_file``.

    Raises:
        UserError: it holds either.
    """
    if list_checkpoints(folder) or os.path.isfile(os.path.join(folder, final_file)):
        raise UserError(
            f"'{folder}' holds a run or its results; give --eval-only an empty OUTPUT_DIR",
            code="unfinished-run",
        )


def check_inputs(cfg: CfgNode, inputs: Mapping[str, str]) -> None:
    """Make sure that ``inputs`` (see :func:`run_state`) are those that the run started with.

    Raises:
        UserError: names those that have changed.
    """
    _refuse(cfg.OUTPUT_DIR, _input_changes(cfg.OUTPUT_DIR, inputs))


def _other_processes(saved: str, cfg: CfgNode) -> str:
    """Return how to go on with another number of processes than the run had; "" if it had as many.

    A config that was made for some processes was scaled to those of the run.
    """
    for key, before, now in differences(saved, cfg.dump()):
        if key == _REFERENCE and before and now:
            return (
                f"the run was of {before} processes, this one is of {now}: to keep batch and "
                f"learning rate, add {_REFERENCE} {now}; or "
            )
    return ""


def _refuse(folder: str, changes: Sequence[str], remedy: str = "") -> None:
    if changes:
        listed = "\n  ".join(changes)
        raise UserError(
            f"'{folder}' holds a run that differs from this one:\n  {listed}\n"
            f"{remedy}use the old values, choose another OUTPUT_DIR, or remove that folder",
            code="changed-run",
        )


def _input_changes(folder: str, inputs: Mapping[str, str]) -> list[str]:
    try:
        before = dict(json.loads(_read(folder, ENVIRONMENT_FILE)).get("inputs", {}))
    except (AttributeError, RecursionError, TypeError, ValueError):
        return [f"{ENVIRONMENT_FILE} is damaged"]
    return [
        f"{name}: the content has changed (sha256 was {before.get(name)}, is {now})"
        for name, now in inputs.items()
        if before.get(name, now) != now
    ]


def _read(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"'{folder}' holds a run without a readable {name} ({error}); "
            "choose another OUTPUT_DIR, or remove that folder",
            code="damaged-file",
        ) from None
