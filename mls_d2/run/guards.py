"""What stops a run in good order: losses that are not finite, signals, a changed config."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any, TypeVar

import detectron2.utils.comm as comm
import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from torch import Tensor

from mls_d2.config.changes import differences
from mls_d2.core.errors import Preempted, UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# From people, and from schedulers: the end (Slurm, Kubernetes), `sbatch --signal`, and submitit.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE)
# A Ctrl-C reaches a process from the terminal and again from its launcher, in seconds.
_RELAY_S = 1.0


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
    """Context in which signals that ask for a stop are only noted, so that the step can end.

    These are SIGINT and, from schedulers, SIGTERM, SIGUSR1 and SIGUSR2. A second SIGINT kills at
    once. Schedulers' signals may come repeatedly, from a scheduler and from a launcher that passes
    them on: who means to kill has SIGKILL.

    Enter it before data loader workers are started, so that they leave the signals to the main
    process.

    Attributes:
        requested: the first signal that came; 0 for none.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._since = 0.0
        self._pid = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptGuard:
        for number in STOP_SIGNALS:
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

    def agreed(self) -> int:
        """Return the signal that asked any process of the run to stop, or 0 (collective).

        SIGINT, which people send, goes before those of schedulers.
        """
        return min(filter(None, comm.all_gather(self.requested)), default=0)

    def raise_if_agreed(self) -> None:
        """Stop all processes if one was asked to (collective).

        Raises:
            Preempted: asked by a scheduler.
            KeyboardInterrupt: asked by SIGINT.
        """
        number = self.agreed()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number:
            raise Preempted(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked data loader worker: it ends when the main process tells it to.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if not self.requested:
            self.requested, self._since = number, time.monotonic()
            logger.warning(
                "%s: a checkpoint is written after this step; another Ctrl-C stops at once",
                signal.Signals(number).name,
            )
        elif number == signal.SIGINT and time.monotonic() - self._since > _RELAY_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says that a collective failed, as it does when another process dies."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer")
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the GPU or of the machine did not suffice."""
    # On the CPU it is a bare RuntimeError of torch's allocator.
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def is_lost_worker(error: BaseException) -> bool:
    """Whether an error says that a worker of the data loader died, as where memory runs out."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def is_disk_trouble(error: BaseException) -> bool:
    """Whether an error says that a disk is full, read-only, failing or gone."""
    return isinstance(error, OSError) and error.errno in _DISK_TROUBLE


def train_guarded(
    train: Callable[[], T], guard: FiniteLossGuard | None = None, *, relief: str
) -> T:
    """Run Detectron2's training loop without its logging a traceback for what the user can mend.

    Args:
        train: for example ``trainer.train``.
        guard: of the losses; it names the terms where Detectron2 notices first that a sum is not
            finite.
        relief: the settings, with their values, that make a step need less memory.

    Raises:
        NonFiniteLossError: in place of Detectron2's FloatingPointError.
        UserError: in place of an error that says that memory did not suffice, that a worker of the
            data loader died, or that a file (of the log or the metrics) could not be written.
    """
    loop_logger = logging.getLogger("detectron2.engine.train_loop")
    loop_logger.addFilter(_is_no_user_error)
    try:
        return train()
    except FloatingPointError as error:
        if guard is not None:
            guard.flush()
        raise NonFiniteLossError(str(error)) from error
    except (RuntimeError, MemoryError) as error:
        if is_lost_worker(error):
            raise UserError(_worker_message(error)) from error
        if not is_out_of_memory(error):
            raise
        raise UserError(_memory_message(error, relief)) from error
    except OSError as error:
        if not is_disk_trouble(error):
            raise
        raise UserError(
            f"{error.strerror}: what the run logs cannot be written to OUTPUT_DIR. The last "
            "checkpoint is intact: free space, then go on with --resume"
        ) from error
    finally:
        loop_logger.removeFilter(_is_no_user_error)


def check_same_config(cfg: CfgNode) -> None:
    """Compare the configs of all processes (collective).

    Raises:
        UserError: in all of them, where one differs from process 0; names the keys.
    """
    texts = comm.all_gather(cfg.dump())
    for rank, text in enumerate(texts):
        if text != texts[0]:
            listed = "\n  ".join(
                f"{key}: {first!r} and {other!r}"
                for key, first, other in differences(texts[0], text)
            )
            raise UserError(
                f"the configs of processes 0 and {rank} differ:\n  {listed}\n"
                "start every machine with the same config file and options"
            )


def _raise_if_bad(values: Mapping[str, float], iteration: int) -> None:
    bad = {name: value for name, value in values.items() if not abs(value) < float("inf")}
    if bad:
        terms = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise NonFiniteLossError(
            f"loss not finite at iteration {iteration}: {terms}; the last checkpoint is from "
            "before. Lower SOLVER.BASE_LR or lengthen the warm-up, then start again with --resume "
            "or in another OUTPUT_DIR"
        )


def _memory_message(error: Exception, relief: str) -> str:
    message = f"out of memory: {str(error).partition(chr(10))[0] or type(error).__name__}"
    if isinstance(error, torch.cuda.OutOfMemoryError):
        held, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        free, total = torch.cuda.mem_get_info()
        message += (
            f" (GPU {torch.cuda.current_device()}: {total / 2**30:.1f} GiB in all, "
            f"{free / 2**30:.1f} free, {held / 2**30:.1f} held by this process, "
            f"{peak / 2**30:.1f} at its peak)"
        )
    return f"{message}. Lower or turn on what needs less: {relief}"


def _worker_message(error: Exception) -> str:
    shared = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
    room = f" (/dev/shm has {shared.free / 2**30:.1f} GiB free)" if shared else ""
    return (
        f"{str(error).splitlines()[0].strip()} Where nobody did that, the machine's memory, or its "
        f"shared memory{room}, ran out: lower DATALOADER.NUM_WORKERS or SOLVER.IMS_PER_BATCH, and "
        "give a container more with --shm-size; then go on with --resume"
    )


def _is_no_user_error(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return True
    known = isinstance(error, UserError | FloatingPointError) or is_disk_trouble(error)
    known = known or is_out_of_memory(error) or is_lost_worker(error)
    return not (known or is_lost_connection(error))
