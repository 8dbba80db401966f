"""A map over processes that ends with a message if one of them dies."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from mls_d2.core.errors import UserError


@contextmanager
def worker_map(
    workers: int,
    *,
    advice: str,
    start_method: str | None = None,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    chunksize: int = 1,
) -> Iterator[Callable[..., Iterable[Any]]]:
    """Yield the ``map`` of that many processes, which are stopped when the block ends.

    Args:
        workers: processes; 0 yields Python's own ``map``.
        advice: end of the message if one of them dies: likely causes, what to do.
        start_method: of processes; None is Python's default.
        initializer: runs first in each process, with ``initargs``.
        initargs: arguments of ``initializer``.
        chunksize: items that a process takes at a time.

    Raises:
        UserError: a process has died.
    """
    if not workers:
        yield map
        return
    context = multiprocessing.get_context(start_method)
    pool = ProcessPoolExecutor(workers, context, initializer, initargs)
    try:
        yield partial(pool.map, chunksize=chunksize)
    except BrokenProcessPool as error:
        raise UserError(f"a worker process died: {advice}", code="dead-worker") from error
    finally:
        pool.shutdown(cancel_futures=True)
