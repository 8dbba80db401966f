"""The map over processes: order, start of each process, and what a dead one leaves."""

import itertools
import os
from functools import partial

import pytest

from mls_d2.core.workers import worker_map


def scaled(factor: int, item: int) -> tuple[int, int]:
    return item * factor, os.getpid()


def die(item: int) -> None:
    os._exit(9)


@pytest.mark.parametrize("workers", [0, 2])
def test_results_keep_their_order_and_come_from_processes(workers):
    with worker_map(partial(scaled, 10), workers, advice="") as run:
        found = list(run(range(20)))
    assert [value for value, _ in found] == [10 * item for item in range(20)]
    assert (os.getpid() in {process for _, process in found}) == (workers == 0)


def test_items_are_taken_only_a_few_ahead_of_results():
    taken = itertools.count()
    with worker_map(partial(scaled, 1), 1, advice="") as run:
        next(iter(run(next(taken) for _ in range(1000))))
    assert next(taken) < 10


def test_a_process_that_dies_is_a_message_with_advice(refuses):
    with refuses("dead-worker") as caught, worker_map(die, 1, advice="do this") as run:
        list(run(range(2)))
    assert str(caught.value) == "a worker process died: do this"
