"""The map over processes: order, start of each process, and what a dead one leaves."""

import os

import pytest

from mls_d2.core.workers import worker_map

_set: list[int] = []


def prepare(value: int) -> None:
    _set.append(value)


def scaled(item: int) -> tuple[int, int]:
    return item * _set[0], os.getpid()


def die(item: int) -> None:
    os._exit(9)


def test_no_processes_are_pythons_own_map():
    with worker_map(0, advice="") as run:
        assert run is map


@pytest.mark.parametrize("chunksize", [1, 3])
def test_results_keep_their_order_and_processes_are_prepared(chunksize):
    with worker_map(2, advice="", initializer=prepare, initargs=(10,), chunksize=chunksize) as run:
        found = list(run(scaled, range(7)))
    assert [value for value, _ in found] == [10 * item for item in range(7)]
    assert os.getpid() not in {process for _, process in found}


def test_a_process_that_dies_is_a_message_with_advice(refuses):
    with refuses("dead-worker") as caught, worker_map(1, advice="do this") as run:
        list(run(die, range(2)))
    assert str(caught.value) == "a worker process died: do this"
