"""Errors of a running process that its user can fix, each as one line."""

import errno
import logging
import multiprocessing.queues
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import get_worker_info

from mls_d2.core.errors import UserError

logger = logging.getLogger(__name__)

# In torch's errors about /dev/shm, which workers raise and the main process re-raises.
_SHARED_MEMORY = ("unable to allocate shared memory", "shared memory object", "file </torch_")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE)


@contextmanager
def one_line_failures(relief: str) -> Iterator[None]:
    """Turn errors that the user can fix into a :class:`UserError`; log bugs with a traceback.

    Args:
        relief: the settings, with their values, that reduce the memory that is needed.

    Raises:
        UserError: memory ran out, a worker of the data loader died, or a file could not be written.
    """
    try:
        with _workers_that_die_of_lost_batches():
            yield
    except UserError:
        raise
    except Exception as error:
        message, code = _explain(error, relief)
        if message:
            raise UserError(message, code=code) from error
        # An error about a file becomes one line where the tool ends.
        if not is_lost_connection(error) and getattr(error, "filename", None) is None:
            logger.exception("error in this run")
        raise


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error is that of a collective of which another process died."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer")
    )


def _explain(error: Exception, relief: str) -> tuple[str, str]:
    """Return message and code for an error that the user can fix, or two empty strings."""
    if isinstance(error, RuntimeError):
        for line in str(error).splitlines():
            if line.startswith("DataLoader worker") or any(word in line for word in _SHARED_MEMORY):
                return _worker_message(line), "lost-worker"
    if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
        return (
            f"a BatchNorm got a single value per channel, which has no variance ({error}); raise "
            "SOLVER.IMS_PER_BATCH to two images per process or more, or train on larger images"
        ), "bad-value"
    # On the CPU it is a bare RuntimeError of torch's allocator.
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    ):
        return _memory_message(error, relief), "out-of-memory"
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return (
            f"{error.strerror}: the logs cannot be written to OUTPUT_DIR. The last checkpoint is "
            "intact: free space, then continue with --resume"
        ), "no-space"
    if isinstance(error, OSError) and str(error).startswith("Caught "):
        # A data loader re-raises errors of its workers without their number and file.
        return f"a worker of the data loader: {str(error).rstrip().splitlines()[-1]}", "file-error"
    return "", ""


def _memory_message(error: Exception, relief: str) -> str:
    message = f"out of memory: {str(error).partition(chr(10))[0] or type(error).__name__}"
    if isinstance(error, torch.cuda.OutOfMemoryError):
        held, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        free, total = torch.cuda.mem_get_info()
        message += (
            f" (GPU {torch.cuda.current_device()}: {total / 2**30:.1f} GiB in total, "
            f"{free / 2**30:.1f} free, {held / 2**30:.1f} used by this process, "
            f"{peak / 2**30:.1f} at its peak)"
        )
    return f"{message}. To reduce the memory, change one of: {relief}"


def _worker_message(line: str) -> str:
    shared = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
    room = f" (/dev/shm has {shared.free / 2**30:.3f} GiB free)" if shared else ""
    return (
        f"{line.strip()}. If nobody killed a worker of the data loader, the memory of the machine "
        f"or its shared memory{room} ran out: lower DATALOADER.NUM_WORKERS or "
        "SOLVER.IMS_PER_BATCH, or start the container with a larger --shm-size; then continue with "
        "--resume"
    )


@contextmanager
def _workers_that_die_of_lost_batches() -> Iterator[None]:
    """Let data loader workers forked here exit if a batch cannot be sent, e.g. without memory.

    Python prints such an error in the worker and drops the batch, for which the main process then
    waits forever.
    """
    queue: Any = multiprocessing.queues.Queue
    before = queue._on_queue_feeder_error

    def exit_worker(error: Exception, item: object) -> None:
        if get_worker_info() is None:
            before(error, item)
            return
        sys.stderr.write(f"a data loader worker lost a batch: {error}\n")
        sys.stderr.flush()
        os._exit(1)

    queue._on_queue_feeder_error = staticmethod(exit_worker)
    try:
        yield
    finally:
        queue._on_queue_feeder_error = staticmethod(before)
