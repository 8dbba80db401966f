"""Running cells: one loop, and the executor that starts them on this machine."""

import contextlib
import enum
import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Protocol

import torch

from mls_d2.core.errors import UserError
from mls_d2.run.signals import InterruptGuard
from mls_d2.runner.cells import Cell, Tools, dependents
from mls_d2.runner.store import FAILED, FINISHED, Place, Store
from mls_d2.runner.tool_process import NOT_RUN, REUSED, SKIPPED, Outcome, ToolProcess

# How long to wait before a cell that another run has locked is tried again, in seconds.
_LOCKED_S = 2.0
# A terminal may repeat a Ctrl-C within this time, in seconds.
_REPEAT_S = 1.0
# At most so many at a time on a CPU unless asked for: each takes a GB or two.
_MAX_CPU_JOBS = 4


class Running(Protocol):
    """A cell that has been started or queued."""

    @property
    def cell(self) -> Cell:
        """Which one."""

    @property
    def started(self) -> bool:
        """Whether its tool runs; False while it is queued."""

    def poll(self) -> Outcome | None:
        """Return the outcome once it has ended."""

    def stop(self, number: int) -> None:
        """Relay a signal to the tool."""


class Wait(enum.Enum):
    """Why a cell was not started."""

    BUSY = "other runs or cells have to end first"
    FULL = "no room; cells behind it wait, too, so that it gets all GPUs that it needs"


class Executor(Protocol):
    """Where cells run."""

    jobs: int  # how many run at a time
    poll_s: float  # seconds between two looks at the running ones
    detached: bool  # whether cells outlive this process: a stop ends only the watching
    wait: bool  # whether to watch them until they end

    def start(
        self, cell: Cell, place: Place | None, source: Running | None
    ) -> Running | Outcome | Wait:
        """Start or queue a cell.

        Args:
            cell: which one.
            place: its folder; None while the cell that it needs is not finished.
            source: the cell that it needs, while that is running.

        Raises:
            UserError: it cannot be started.
        """


Watch = Callable[[Mapping[Cell, Outcome], Sequence[Running]], None]


def run_cells(
    cells: Sequence[Cell],
    store: Store,
    executor: Executor,
    guard: InterruptGuard,
    *,
    durations: Mapping[str, float] | None = None,
    watch: Watch = lambda outcomes, running: None,
) -> dict[Cell, Outcome]:
    """Run the cells that are not finished and return the outcome of each.

    Args:
        cells: each after the one that it needs.
        store: where they are.
        executor: where they run.
        guard: after its first signal running tools write a checkpoint and stop, and nothing else
            is started; a Ctrl-C a second or more later kills the tools.
        durations: seconds by family, if known: unknown and long ones start first.
        watch: called with the outcomes so far and the running cells, often.
    """
    return _Loop(cells, store, executor, guard, durations or {}).run(watch)


class _Loop:
    def __init__(
        self,
        cells: Sequence[Cell],
        store: Store,
        executor: Executor,
        guard: InterruptGuard,
        durations: Mapping[str, float],
    ) -> None:
        self._needed, self._durations = dependents(cells), dict(durations)
        self._pending = self._sorted(cells)
        self._store, self._executor, self._guard = store, executor, guard
        self._running: dict[Cell, Running] = {}
        self._outcomes: dict[Cell, Outcome] = {}
        self._places: dict[Cell, Place] = {}
        self._stopped_at = 0.0

    def _sorted(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return cells that others need first, then those of unknown length, then the long ones."""
        length = self._durations.get
        return sorted(cells, key=lambda cell: (-self._needed[cell], -length(cell.family, math.inf)))

    def run(self, watch: Watch) -> dict[Cell, Outcome]:
        while self._pending or self._running:
            self._collect()
            if self._guard.requested:
                self._stop()
                self._pending = []
            else:
                self._start_what_can()
            watch(self._outcomes, list(self._running.values()))
            if self._executor.detached and (self._guard.requested or not self._executor.wait):
                for cell, item in self._running.items():
                    self._outcomes[cell] = Outcome(NOT_RUN, f"{item} is queued or running")
                break
            if self._pending or self._running:
                time.sleep(self._executor.poll_s)
        return self._outcomes

    def _collect(self) -> None:
        for cell, running in list(self._running.items()):
            outcome = running.poll()
            if outcome is not None:
                del self._running[cell]
                self._outcomes[cell] = outcome
                if outcome.status == FINISHED:
                    self._durations.setdefault(cell.family, outcome.seconds)
                    self._pending = self._sorted(self._pending)

    def _stop(self) -> None:
        if not self._stopped_at:
            self._stopped_at = time.monotonic()
            if not self._executor.detached:
                by_user = self._guard.requested == signal.SIGINT
                self._signal(signal.SIGINT if by_user else signal.SIGTERM)
                # The guard restores the handler from before when it ends.
                signal.signal(signal.SIGINT, self._kill)
        for cell in self._pending:
            self._outcomes[cell] = Outcome(NOT_RUN, "stopped before it began")

    def _kill(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._stopped_at > _REPEAT_S:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for running in self._running.values():
            running.stop(number)

    def _start_what_can(self) -> None:
        full = False
        for cell in list(self._pending):
            try:
                found = self._skip_or_start(cell, full)
            except UserError as error:
                found = Outcome(FAILED, str(error))
            if isinstance(found, Wait):
                full = full or found is Wait.FULL
                continue
            self._pending.remove(cell)
            if isinstance(found, Outcome):
                self._outcomes[cell] = found
            else:
                self._running[cell] = found

    def _skip_or_start(self, cell: Cell, full: bool) -> Running | Outcome | Wait:
        source = self._outcomes.get(cell.needs) if cell.needs else None
        if cell.needs and source and not source.done:
            return Outcome(SKIPPED, f"needs {cell.needs.name}, which is {source.status}")
        if cell.needs in self._pending or cell.needs in self._running:
            return (
                Wait.FULL
                if full
                else self._executor.start(cell, None, self._running.get(cell.needs))
            )
        if cell not in self._places:
            place = self._store.place(cell)
            if place is None:
                name = cell.needs.name if cell.needs else ""
                return Outcome(SKIPPED, f"needs {name}, which is not finished")
            if self._store.is_finished(cell, place):
                return Outcome(REUSED, folder=place.folder)
            self._places[cell] = place
        return Wait.FULL if full else self._executor.start(cell, self._places[cell], None)


def visible_gpus() -> list[str]:
    """Return the GPUs of this process, by their names in ``CUDA_VISIBLE_DEVICES``."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(index) for index in range(count)]


class Pool:
    """What cells on one machine share: GPUs, or cores if there are none.

    At most ``jobs`` run at a time; with None as many of ``most`` as there is room for.

    Raises:
        UserError: ``jobs`` is not positive.
    """

    def __init__(self, gpus: Sequence[str], jobs: int | None, most: int = _MAX_CPU_JOBS) -> None:
        if jobs is not None and jobs < 1:
            raise UserError(f"--jobs must be 1 or more, got {jobs}", code="bad-value")
        self.gpus, self._free = tuple(gpus), list(gpus)
        affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        self.jobs = jobs or (len(gpus) or min(cores, _MAX_CPU_JOBS, max(1, most)))
        self._running = 0
        self._threads = str(max(1, cores // self.jobs))

    def take(self, num_gpus: int) -> dict[str, str] | None:
        """Return the environment of one more cell; None if there is no room now.

        Raises:
            UserError: it needs more GPUs than there are.
        """
        if not self.gpus:
            num_gpus = 0
        if num_gpus > len(self.gpus):
            raise UserError(
                f"it needs {num_gpus} GPUs, and this machine has {len(self.gpus)}", code="bad-value"
            )
        if self._running >= self.jobs or num_gpus > len(self._free):
            return None
        self._running += 1
        taken, self._free = self._free[:num_gpus], self._free[num_gpus:]
        environment = {"OMP_NUM_THREADS": self._threads}
        return environment | ({"CUDA_VISIBLE_DEVICES": ",".join(taken)} if taken else {})

    def give_back(self, environment: Mapping[str, str]) -> None:
        """Return what :meth:`take` gave."""
        self._running -= 1
        names = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        self._free += [name for name in names if name]


class LocalExecutor:
    """Runs cells as processes of this machine, which share a pool."""

    poll_s = 0.05
    detached = False
    wait = True

    def __init__(self, store: Store, tools: Tools, pool: Pool) -> None:
        self._store, self._tools, self._pool = store, tools, pool
        self.jobs = pool.jobs
        self._not_before: dict[Cell, float] = {}

    def start(
        self, cell: Cell, place: Place | None, source: Running | None
    ) -> Running | Outcome | Wait:
        """Start a cell, if there is room and no other run works on it: see :class:`Executor`."""
        if place is None or time.monotonic() < self._not_before.get(cell, 0.0):
            return Wait.BUSY
        with contextlib.ExitStack() as resources:
            environment = self._pool.take(cell.num_gpus)
            if environment is None:
                return Wait.FULL
            resources.callback(self._pool.give_back, environment)
            lock = self._store.lock(place)
            if lock is None:
                self._not_before[cell] = time.monotonic() + _LOCKED_S
                return Wait.BUSY
            resources.callback(os.close, lock)
            if self._store.is_finished(cell, place):
                # Another run finished it a moment ago.
                return Outcome(REUSED, folder=place.folder)
            held = resources.pop_all()
            try:
                return ToolProcess(
                    cell,
                    place,
                    self._store,
                    tools=self._tools,
                    environment=environment,
                    lock=lock,
                    resources=held,
                )
            except UserError:
                held.close()
                raise
