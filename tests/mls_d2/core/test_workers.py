"""The map over processes: order, start of each process, and what a dead one leaves."""

import itertools
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from mls_d2.core import workers
from mls_d2.core.workers import worker_map


def scaled(factor: int, item: int) -> tuple[int, int]:
    return item * factor, os.getpid()


def die(item: int) -> None:
    os._exit(9)


def stop(item: int) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def loop(item: int) -> None:
    while True:
        pass


def compute(item: int) -> int:
    end = time.process_time() + 2.5
    while time.process_time() < end:
        pass
    return item


def compute_and_read(item: int) -> int:
    end = time.process_time() + 1
    while time.process_time() < end:
        Path("/proc/self/stat").read_bytes()
    return item


@pytest.mark.parametrize("number", [0, 2])
def test_results_keep_their_order_and_come_from_processes(number):
    with worker_map(partial(scaled, 10), number, advice="") as run:
        found = list(run(range(20)))
    assert [value for value, _ in found] == [10 * item for item in range(20)]
    assert (os.getpid() in {process for _, process in found}) == (number == 0)


def test_items_are_taken_only_a_few_ahead_of_results():
    taken = itertools.count()
    with worker_map(partial(scaled, 1), 1, advice="") as run:
        next(iter(run(next(taken) for _ in range(1000))))
    assert next(taken) < 10


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (die, "a worker process died: do this"),
        (stop, "it read and computed nothing for 3 s; repeat the command"),
        (loop, "it read nothing in 1 s of computing; repeat the command"),
    ],
)
def test_a_process_that_does_not_get_on_is_a_message_with_advice(
    refuses, monkeypatch, trouble, message
):
    monkeypatch.setattr(workers, "_IDLE_S", 3.0)
    mapped = worker_map(trouble, 1, advice="do this", busy_s=3600 if trouble is stop else 1)
    with refuses("dead-worker") as caught, mapped as run:
        list(run(range(2)))
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(("work", "busy_s"), [(compute, 3600), (compute_and_read, 0.5)])
def test_a_process_that_computes_or_reads_is_not_stuck(monkeypatch, work, busy_s):
    monkeypatch.setattr(workers, "_IDLE_S", 2.0)
    monkeypatch.setattr(workers, "_LOOK_S", 0.1)
    with worker_map(work, 1, advice="", busy_s=busy_s) as run:
        assert list(run([1])) == [1]
