"""Starts the processes of one machine, relays signals to them and ends them together."""

import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import torch.multiprocessing as mp

from mls_d2.core.errors import EXIT_LOST_PROCESS
from mls_d2.run.signals import STOP_SIGNALS
from mls_d2.run.watchdog import leave

# How long the other processes may take to end after one has failed, in seconds. They save nothing
# then: a checkpoint after a signal is written before any of them ends. (Not torch's elastic agent:
# it kills workers 30 s after a signal, however long their step, and reports the process that
# noticed a hung one instead of the hung one.)
_GRACE_S = 10.0


def run_processes(main: Callable[[], int], environments: list[dict[str, str]]) -> int:
    """Run ``main`` in one process per environment and return the first failure's exit code.

    Signals that ask for a stop go to all of them, and this process waits until they have stopped.
    ``main`` is picklable and returns an exit code; the variables are set before it runs.
    """
    context = mp.start_processes(
        _work, (main, environments), nprocs=len(environments), join=False, start_method="spawn"
    )
    with _signals_go_to(context.processes):
        return _wait_for(context.processes)


def _work(index: int, main: Callable[[], int], environments: list[dict[str, str]]) -> None:
    os.environ.update(environments[index])
    leave(main())


@contextmanager
def _signals_go_to(processes: list[BaseProcess]) -> Iterator[None]:
    def relay(number: int, _: Any) -> None:
        for process in processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, number)

    previous = {number: signal.signal(number, relay) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait_for(processes: list[BaseProcess]) -> int:
    code, deadline = 0, None
    running = dict(enumerate(processes))
    while running:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        multiprocessing.connection.wait([p.sentinel for p in running.values()], left)
        for index in [i for i, process in running.items() if not process.is_alive()]:
            failure = _code_of(index, running.pop(index))
            if failure and not code:
                code, deadline = failure, time.monotonic() + _GRACE_S
        if deadline is not None and time.monotonic() >= deadline:
            for process in running.values():
                process.kill()
    return code


def _code_of(index: int, process: BaseProcess) -> int:
    process.join()
    code = process.exitcode or 0
    if code >= 0:
        return code
    number = -code
    if number in (signal.SIGINT, signal.SIGTERM):
        return 128 + number
    sys.stderr.write(
        f"error: process {index} of this machine was killed by {signal.Signals(number).name}; "
        "if nobody did that, the machine's memory may have run out (see its kernel log)\n"
    )
    return EXIT_LOST_PROCESS
