"""What stops a run in good order: losses that are not finite, signals, a changed config."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, TypeVar

import detectron2.utils.comm as comm
import torch
import yaml
from detectron2.config import CfgNode
from torch import Tensor

from mls_d2.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Settings that do not change what a run computes.
RESUMABLE_CHANGES = (
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
    "VIS_PERIOD",
    "VERSION",
)


class NonFiniteLossError(UserError):
    """A loss term became NaN or infinite."""


def check_finite(losses: Mapping[str, Tensor], iteration: int) -> None:
    """Raise if a loss is NaN or infinite; waits for the device that holds the losses.

    Args:
        losses: scalar tensors by name.
        iteration: for the message.

    Raises:
        NonFiniteLossError: names every term that is not finite.
    """
    _raise_if_bad({name: float(value.detach()) for name, value in losses.items()}, iteration)


class FiniteLossGuard:
    """Checks the losses of every step without making the host wait for the accelerator.

    On the CPU a step's losses are checked at once. On an accelerator they are copied to pinned
    memory asynchronously and looked at in the next step; call :meth:`flush` before saving.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, list[str], Tensor, torch.cuda.Event] | None = None

    def check(self, losses: Mapping[str, Tensor], iteration: int) -> None:
        """Look at the losses of this step (CPU) or of the step before (CUDA).

        Raises:
            NonFiniteLossError: names every term that is not finite.
        """
        if not next(iter(losses.values())).is_cuda:
            check_finite(losses, iteration)
            return
        self.flush()
        values = torch.stack([value.detach().float() for value in losses.values()])
        host = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._pending = (iteration, list(losses), host, arrived)

    def flush(self) -> None:
        """Look at losses that are still on their way from the accelerator.

        Raises:
            NonFiniteLossError: names every term that is not finite.
        """
        if self._pending is None:
            return
        iteration, names, host, arrived = self._pending
        self._pending = None
        arrived.synchronize()
        _raise_if_bad(dict(zip(names, host.tolist(), strict=True)), iteration)


class InterruptGuard:
    """Context in which the first SIGINT or SIGTERM is only noted and a second one kills at once.

    Enter it before data loader workers are started, so that they leave the signals of the terminal
    to the main process and the step in progress can end.
    """

    def __init__(self) -> None:
        self.requested = False
        self._pid = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptGuard:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self) -> bool:
        """Whether any process of the run was asked to stop (collective, all processes call it)."""
        if comm.get_world_size() == 1:
            return self.requested
        return any(comm.all_gather(self.requested))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked data loader worker: it ends when the main process tells it to.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.requested = True
        logger.warning(
            "%s: a checkpoint is written after this step; a second signal stops at once",
            signal.Signals(number).name,
        )
        for other in self._previous:
            signal.signal(other, signal.SIG_DFL)


def train_guarded(train: Callable[[], T], guard: FiniteLossGuard | None = None) -> T:
    """Run Detectron2's training loop without its logging a traceback for what the user can mend.

    Args:
        train: for example ``trainer.train``.
        guard: of the losses; it names the terms where Detectron2 notices first that a sum is not
            finite.

    Raises:
        NonFiniteLossError: in place of Detectron2's FloatingPointError.
    """
    loop_logger = logging.getLogger("detectron2.engine.train_loop")
    loop_logger.addFilter(_is_no_user_error)
    try:
        return train()
    except FloatingPointError as error:
        if guard is not None:
            guard.flush()
        raise NonFiniteLossError(str(error)) from error
    finally:
        loop_logger.removeFilter(_is_no_user_error)


def config_changes(
    saved_yaml: str, cfg: CfgNode, ignore: Sequence[str] = RESUMABLE_CHANGES
) -> list[str]:
    """Return one line for every key whose value differs between a saved config and ``cfg``.

    Args:
        saved_yaml: text of a ``config.yaml`` that a run wrote.
        cfg: the config of now.
        ignore: dotted keys, or sections, that may differ.

    Returns:
        Lines such as ``"SOLVER.BASE_LR: was 0.02, is 0.01"``, sorted by key.

    Raises:
        UserError: ``saved_yaml`` is not a config.
    """
    try:
        saved = _flatten(yaml.safe_load(saved_yaml))
    except (yaml.YAMLError, AttributeError):
        raise UserError("the saved config.yaml is damaged; start in another OUTPUT_DIR") from None
    current = _flatten(yaml.safe_load(cfg.dump()))
    lines = []
    for key in sorted(saved.keys() | current.keys()):
        if any(key == name or key.startswith(f"{name}.") for name in ignore):
            continue
        before, now = saved.get(key, "(unset)"), current.get(key, "(unset)")
        if before != now:
            lines.append(f"{key}: was {before!r}, is {now!r}")
    return lines


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _raise_if_bad(values: Mapping[str, float], iteration: int) -> None:
    bad = {name: value for name, value in values.items() if not abs(value) < float("inf")}
    if bad:
        terms = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise NonFiniteLossError(
            f"loss not finite at iteration {iteration}: {terms}; the last checkpoint is from "
            "before. Lower SOLVER.BASE_LR or lengthen the warm-up, then start again with --resume "
            "or in another OUTPUT_DIR"
        )


def _is_no_user_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], UserError | FloatingPointError))
