"""A map over processes that ends with a message if one of them dies or is stuck."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from mls_d2.core.errors import UserError

# Items of which the results are computed or wait to be taken, for each process.
_AHEAD = 4
# How long processes may neither read nor compute while a result is waited for, in seconds.
_IDLE_S = 60.0
_LOOK_S = 1.0


@contextmanager
def worker_map(
    function: Callable[[Any], Any], workers: int, *, advice: str, busy_s: float = _IDLE_S
) -> Iterator[Callable[[Iterable[Any]], Iterable[Any]]]:
    """Yield what applies ``function`` to items, in their order, by that many processes.

    Processes get the function once: it may hold millions of paths. They use one thread of OpenCV,
    end at once at Ctrl-C, and end with this process or with the block. Results that are not taken
    yet are few, so memory stays bounded.

    Args:
        function: of one item; it can be pickled.
        workers: processes; 0 is this one.
        advice: end of the message if one of them dies: likely causes, what to do.
        busy_s: how long a process may compute without reading anything, in seconds of its CPU.

    Raises:
        UserError: a process has died, was stopped or is caught in one item.
    """
    if not workers:
        yield partial(map, function)
        return
    # Not forked: OpenCV and torch may hold locks in threads that a forked child does not have.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _prepare, (function,))
    try:
        # A process starts now: if the script has no main guard, Python stops the process that
        # imports it again here, before it does what the script does.
        pool.submit(os.getpid)
        yield partial(_in_order, pool, _AHEAD * workers, busy_s)
    except BrokenProcessPool as error:
        raise UserError(f"a worker process died: {advice}", code="dead-worker") from error
    except _StuckError as error:
        for process in list(pool._processes.values()):
            process.kill()  # The pool would wait for it.
        message = f"a worker process was stuck and is ended: {error}; repeat the command"
        raise UserError(message, code="dead-worker") from None
    finally:
        pool.shutdown(cancel_futures=True)


class _StuckError(Exception):
    pass


def _in_order(
    pool: ProcessPoolExecutor, ahead: int, busy_s: float, items: Iterable[Any]
) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(_apply, item))
        if len(waiting) > ahead:
            yield _result(waiting.popleft(), pool, busy_s)
    while waiting:
        yield _result(waiting.popleft(), pool, busy_s)


def _result(future: Future[Any], pool: ProcessPoolExecutor, busy_s: float) -> Any:
    """Return a result, if the processes get on meanwhile."""
    before: dict[int, _Activity] = {}
    at_read: dict[int, _Activity] = {}
    looked = active_at = time.monotonic()
    while not wait([future], _LOOK_S).done:
        now, found = time.monotonic(), _activities(pool)
        reading = any(item.waits_for_a_disk for item in found.values())
        # After a long pause this process was stopped, too, e.g. by Ctrl-Z. There may be no /proc.
        if found != before or reading or not found or now - looked > _IDLE_S / 2:
            active_at = now
        for number, item in found.items():
            last = at_read.setdefault(number, item)
            if item.read != last.read:
                at_read[number] = item
            elif item.cpu_s - last.cpu_s > busy_s:
                raise _StuckError(f"it read nothing in {busy_s:.0f} s of computing")
        before, looked = found, now
        if now - active_at > _IDLE_S:
            raise _StuckError(f"it read and computed nothing for {_IDLE_S:.0f} s")
    return future.result()


@dataclass(frozen=True)
class _Activity:
    read: int  # bytes
    cpu_s: float
    waits_for_a_disk: bool


def _activities(pool: ProcessPoolExecutor) -> dict[int, _Activity]:
    """Return what the processes have done so far, by their numbers; nothing without /proc."""
    found = {}
    for number in list(pool._processes or ()):
        with suppress(OSError):
            folder = Path("/proc", str(number))
            read = int((folder / "io").read_text().split()[1])  # of "rchar: 123"
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            ticks = int(fields[11]) + int(fields[12])  # of user and system
            found[number] = _Activity(read, ticks / os.sysconf("SC_CLK_TCK"), fields[0] == "D")
    return found


_functions: list[Callable[[Any], Any]] = []


def _prepare(function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    _functions.append(function)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _apply(item: Any) -> Any:
    return _functions[0](item)
