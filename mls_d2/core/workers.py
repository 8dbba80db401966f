"""A map over processes that ends with a message if one of them dies."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

import cv2

from mls_d2.core.errors import UserError

# Items of which the results are computed or wait to be taken, for each process.
_AHEAD = 4


@contextmanager
def worker_map(
    function: Callable[[Any], Any], workers: int, *, advice: str
) -> Iterator[Callable[[Iterable[Any]], Iterable[Any]]]:
    """Yield what applies ``function`` to items, in their order, by that many processes.

    Processes get the function once: it may hold millions of paths. They use one thread of OpenCV,
    end at once at Ctrl-C, and end with this process or with the block. Results that are not taken
    yet are few, so memory stays bounded.

    Args:
        function: of one item; it can be pickled.
        workers: processes; 0 is this one.
        advice: end of the message if one of them dies: likely causes, what to do.

    Raises:
        UserError: a process has died.
    """
    if not workers:
        yield partial(map, function)
        return
    # Not forked: OpenCV and torch may hold locks in threads that a forked child does not have.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _prepare, (function,))
    try:
        yield partial(_in_order, pool, _AHEAD * workers)
    except BrokenProcessPool as error:
        raise UserError(f"a worker process died: {advice}", code="dead-worker") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, ahead: int, items: Iterable[Any]) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(_apply, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


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
