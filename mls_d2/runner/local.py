"""Runs cells on this machine, as many at a time as GPUs or cores allow."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any

from mls_d2.core.errors import UserError
from mls_d2.runner.cells import Cell, Tools, dependents
from mls_d2.runner.job import NOT_RUN, REUSED, SKIPPED, Job, Outcome
from mls_d2.runner.store import FAILED, Place, Store

logger = logging.getLogger(__name__)

_POLL_S = 0.05
# A cell that another run works on is looked at again after so long.
_LOCKED_S = 2.0
# A terminal may repeat a Ctrl-C within this time, in seconds.
_REPEAT_S = 1.0
# On a CPU no more than this many at a time unless asked for: each takes a GB or two.
_MAX_CPU_JOBS = 4


class Pool:
    """What jobs share: GPUs, or on a machine without them cores.

    Args:
        gpus: their names, as ``CUDA_VISIBLE_DEVICES`` takes them.
        jobs: how many run at a time at most; None for as many as there is room for.

    Raises:
        UserError: ``jobs`` is not positive.
    """

    def __init__(self, gpus: Sequence[str], jobs: int | None) -> None:
        if jobs is not None and jobs < 1:
            raise UserError(f"--jobs must be 1 or more, got {jobs}")
        self.gpus, self._free = tuple(gpus), list(gpus)
        affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        self.jobs = jobs or (len(gpus) or min(cores, _MAX_CPU_JOBS))
        self._running = 0
        self._threads = str(max(1, cores // self.jobs))

    def take(self, num_gpus: int) -> dict[str, str] | None:
        """Return the environment of one more job; None where it has to wait.

        Raises:
            UserError: it needs more GPUs than there are.
        """
        if not self.gpus:
            num_gpus = 0
        if num_gpus > len(self.gpus):
            raise UserError(f"it needs {num_gpus} GPUs, and this machine has {len(self.gpus)}")
        if self._running >= self.jobs or num_gpus > len(self._free):
            return None
        self._running += 1
        taken, self._free = self._free[:num_gpus], self._free[num_gpus:]
        environment = {"OMP_NUM_THREADS": self._threads}
        return environment | ({"CUDA_VISIBLE_DEVICES": ",".join(taken)} if taken else {})

    def give_back(self, environment: Mapping[str, str]) -> None:
        """End the use of what :meth:`take` returned."""
        self._running -= 1
        self._free += [
            name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name
        ]


class StopSignals:
    """Context in which Ctrl-C and SIGTERM are noted, and passed on to the jobs.

    The first one asks them to write a checkpoint and stop; a Ctrl-C a second or more later kills.

    Attributes:
        first: the signal that came first; 0 for none.
        kill: whether the user has insisted.
    """

    def __init__(self) -> None:
        self.first = 0
        self.kill = False
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.first:
            self.first, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > _REPEAT_S:
            self.kill = True


class LocalRun:
    """Cells that run as processes of this machine.

    Args:
        cells: each after the one that it needs.
        store: where they are.
        tools: command lines.
        pool: what they share.
        durations: seconds by family, of those that are known: long ones go first.
        watch: called with the outcomes so far and the running jobs, often.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        store: Store,
        *,
        tools: Tools,
        pool: Pool,
        durations: Mapping[str, float],
        watch: Callable[[Mapping[Cell, Outcome], Sequence[Job]], None],
    ) -> None:
        needed = dependents(cells)
        self._pending = sorted(
            cells, key=lambda cell: (-needed[cell], -durations.get(cell.family, 0.0))
        )
        self._store, self._tools, self._pool, self._watch = store, tools, pool, watch
        self._running: dict[Job, dict[str, str]] = {}
        self._outcomes: dict[Cell, Outcome] = {}
        self._places: dict[Cell, Place] = {}
        self._full = False
        self._not_before: dict[Cell, float] = {}

    def run(self, stop: StopSignals) -> dict[Cell, Outcome]:
        """Run all that can run and return what became of each cell."""
        told = killed = False
        while self._pending or self._running:
            if stop.first and not told:
                told = True
                logger.warning(
                    "stopping: running tools write a checkpoint; Ctrl-C again kills them"
                )
                self._tell(stop.first)
            if stop.kill and not killed:
                killed = True
                self._tell(signal.SIGKILL)
            self._collect()
            if stop.first:
                self._give_up("stopped before it began")
            else:
                self._start_what_can()
            self._watch(self._outcomes, list(self._running))
            time.sleep(_POLL_S)
        return self._outcomes

    def _tell(self, number: int) -> None:
        for job in self._running:
            job.tell(number)

    def _collect(self) -> None:
        for job, environment in list(self._running.items()):
            outcome = job.poll()
            if outcome is not None:
                del self._running[job]
                self._pool.give_back(environment)
                self._outcomes[job.cell] = outcome

    def _give_up(self, message: str) -> None:
        for cell in self._pending:
            self._outcomes[cell] = Outcome(NOT_RUN, message)
        self._pending.clear()

    def _start_what_can(self) -> None:
        self._full = False
        for cell in list(self._pending):
            if time.monotonic() < self._not_before.get(cell, 0.0):
                continue
            outcome = self._skip_or_start(cell)
            if outcome is not None:
                self._pending.remove(cell)
                self._outcomes[cell] = outcome

    def _skip_or_start(self, cell: Cell) -> Outcome | None:
        """Return the outcome of a cell that does not have to run, and start it if it can."""
        source = self._outcomes.get(cell.needs) if cell.needs else None
        if cell.needs is not None and source is None:
            return None
        if cell.needs is not None and source is not None and not source.done:
            return skipped(cell.needs, source)
        try:
            if cell not in self._places:
                place = self._store.place(cell)
                if place is None:
                    return Outcome(SKIPPED, "the weights that it needs are gone")
                if self._store.is_finished(cell, place):
                    return Outcome(REUSED, folder=place.folder)
                self._places[cell] = place
            return None if self._full else self._start(cell, self._places[cell])
        except UserError as error:
            return Outcome(FAILED, str(error))

    def _start(self, cell: Cell, place: Place) -> Outcome | None:
        environment = self._pool.take(cell.num_gpus)
        if environment is None:
            # Small ones behind it wait, too: else one that needs all GPUs would never get them.
            self._full = True
            return None
        lock = None
        try:
            lock = self._store.lock(place)
            if lock is None:
                self._not_before[cell] = time.monotonic() + _LOCKED_S
            elif self._store.is_finished(cell, place):
                # By another run, which held the lock until a moment ago.
                return Outcome(REUSED, folder=place.folder)
            else:
                job = Job(
                    cell, place, self._store, tools=self._tools, environment=environment, lock=lock
                )
                self._running[job] = environment
                self._pending.remove(cell)
                lock = environment = None
        finally:
            if environment is not None:
                self._pool.give_back(environment)
            if lock is not None:
                os.close(lock)
        return None


def skipped(source: Cell, outcome: Outcome) -> Outcome:
    """Return the outcome of a cell that needs ``source``, which did not finish."""
    return Outcome(SKIPPED, f"needs {source.name}, which is {outcome.status}")
