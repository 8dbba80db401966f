"""Runs cells as jobs of Slurm, each after the one that it needs."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mls_d2.core.errors import UserError
from mls_d2.core.files import write_json
from mls_d2.run.signals import InterruptGuard
from mls_d2.runner.cells import CONVERT, Cell, Tools
from mls_d2.runner.job import NOT_RUN, REUSED, SKIPPED, Job, Outcome
from mls_d2.runner.local import StopSignals
from mls_d2.runner.progress import Active
from mls_d2.runner.slurm import import_submitit, let_jobs_import_us
from mls_d2.runner.store import FAILED, INTERRUPTED, LOG_FILE, RUNNING, Store, tail

JOBS_FILE = "jobs.json"
# How long before its time limit a job is told, in seconds, and how often it may reach that limit.
_NOTICE_S = 300
_MAX_TIMEOUTS = 100
_POLL_S = 0.2
_WATCH_S = 2.0
_LOG_LINES = 10


@dataclass(frozen=True)
class SlurmOptions:
    """Where jobs go.

    Attributes:
        partition: of the cluster.
        timeout_min: time limit of a job, after which it queues again and goes on.
        wait: whether to watch the jobs until they end.
        cluster: ``"slurm"``, or ``"local"`` for submitit's imitation of it on this machine.
    """

    partition: str
    timeout_min: int = 24 * 60
    wait: bool = True
    cluster: str = "slurm"


class SlurmCell:
    """What a job runs; submitit pickles it.

    Args:
        cell: its cell.
        out: folder of the store.
        tools: command lines.
    """

    def __init__(self, cell: Cell, out: Path, tools: Tools) -> None:
        self._cell, self._out, self._tools = cell, out, tools

    def __call__(self) -> Outcome:
        """Run the cell; queue again where the scheduler stops it."""
        with InterruptGuard() as guard:
            try:
                outcome = _run_cell(self._cell, Store(self._out), self._tools, guard)
            except UserError as error:
                outcome = Outcome(FAILED, str(error))
        if outcome.status == INTERRUPTED and guard.requested in (signal.SIGUSR1, signal.SIGUSR2):
            # It was held back until the checkpoint was written; submitit's handler queues again.
            signal.raise_signal(guard.requested)
        return outcome

    def checkpoint(self) -> Any:
        """Return what submitit is to run when the job starts again."""
        return import_submitit().helpers.DelayedSubmission(self)


@dataclass(frozen=True, eq=False)
class _Queued:
    """A job in the queue, or running.

    Attributes:
        cell: what it runs.
        job: submitit's.
        store: where the cell is.
        fresh: whether this run queued it, and not an earlier one.
    """

    cell: Cell
    job: Any
    store: Store
    fresh: bool

    def is_running(self) -> bool:
        """Whether its tool has started; the scheduler tells later."""
        place = self.store.place(self.cell)
        record = self.store.record(place) if place else None
        return record is not None and record.status == RUNNING

    def last_line(self) -> str:
        """Return the last line of its output."""
        place = self.store.place(self.cell)
        lines = tail(place.folder / LOG_FILE, 1) if place else []
        return lines[0] if lines else ""


class SlurmRun:
    """Cells as jobs. A second run finds the jobs of the first one, and queues none twice.

    Args:
        cells: each after the one that it needs.
        store: where they are, on a folder that all machines share.
        tools: command lines.
        folder: for the jobs' numbers and their files.
        options: where jobs go.
        watch: called with the outcomes so far and the jobs that are left.

    Raises:
        UserError: no submitit or no Slurm here.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        store: Store,
        *,
        tools: Tools,
        folder: Path,
        options: SlurmOptions,
        watch: Callable[[Mapping[Cell, Outcome], Sequence[Active]], None],
    ) -> None:
        for program in ("sbatch", "srun") if options.cluster == "slurm" else ():
            if shutil.which(program) is None:
                raise UserError(
                    f"--slurm needs Slurm's {program}, which this machine does not have"
                )
        self._cells, self._store, self._tools = cells, store, tools
        self._options, self._watch = options, watch
        self._numbers_file = folder / JOBS_FILE
        self._numbers = _read_numbers(self._numbers_file)
        let_jobs_import_us()
        submitit = import_submitit()
        self._job_class = submitit.SlurmJob if options.cluster == "slurm" else submitit.LocalJob
        self._executor = submitit.AutoExecutor(
            folder / "slurm", cluster=options.cluster, slurm_max_num_timeout=_MAX_TIMEOUTS
        )

    def run(self, stop: StopSignals) -> dict[Cell, Outcome]:
        """Queue what is not finished, and return what became of each cell.

        Ctrl-C ends the watching; the jobs go on.
        """
        outcomes: dict[Cell, Outcome] = {}
        queued: dict[Cell, _Queued] = {}
        for cell in self._cells:
            place = self._store.place(cell)
            if place is not None and self._store.is_finished(cell, place):
                outcomes[cell] = Outcome(REUSED, folder=place.folder)
            else:
                queued[cell] = self._queue(cell, queued.get(cell.needs) if cell.needs else None)
        while queued and self._options.wait and not stop.first:
            for cell, item in list(queued.items()):
                if item.job.done():
                    del queued[cell]
                    outcomes[cell] = _outcome(item)
            running = [item for item in queued.values() if item.is_running()]
            self._watch(outcomes, running)
            if queued:
                time.sleep(_WATCH_S if self._options.cluster == "slurm" else _POLL_S)
        for cell, item in queued.items():
            outcomes[cell] = Outcome(NOT_RUN, f"job {item.job.job_id} is queued or running")
        return outcomes

    def _queue(self, cell: Cell, after: _Queued | None) -> _Queued:
        own = f"{cell.name} {_identity(cell)}"
        # Behind a new job, an old one waits for another that has ended without success.
        if own in self._numbers and (after is None or not after.fresh):
            job = self._job_class(self._executor.folder, self._numbers[own])
            if not job.done(force_check=True):
                return _Queued(cell, job, self._store, fresh=False)
        extra = {}
        if after is not None and self._options.cluster == "slurm":
            # After any end: what cannot run then says so, instead of waiting for ever.
            extra = {"dependency": f"afterany:{after.job.job_id}"}
        elif after is not None:
            after.job.wait()
        self._executor.update_parameters(
            name=cell.name.replace("/", "-"),
            nodes=1,
            tasks_per_node=1,
            gpus_per_node=0 if cell.stage == CONVERT else cell.num_gpus,
            cpus_per_task=cell.cpus,
            timeout_min=self._options.timeout_min,
            slurm_partition=self._options.partition,
            slurm_signal_delay_s=_NOTICE_S,
            slurm_additional_parameters=extra,
        )
        job = self._executor.submit(SlurmCell(cell, self._store.out, self._tools))
        self._numbers[own] = job.job_id
        write_json(str(self._numbers_file), self._numbers)
        return _Queued(cell, job, self._store, fresh=True)


def _identity(cell: Cell) -> str:
    """Return the digest of a cell and of those that it needs, whose weights are not there yet."""
    return cell.key(_identity(cell.needs) if cell.needs else "")


def _run_cell(cell: Cell, store: Store, tools: Tools, guard: InterruptGuard) -> Outcome:
    """Run one cell in this job, after any other job that works on it."""
    place = store.place(cell)
    if place is None:
        return Outcome(SKIPPED, f"needs {cell.needs.name if cell.needs else ''}, which failed")
    while (lock := store.lock(place)) is None:
        if guard.requested:
            return Outcome(INTERRUPTED, "stopped while another job worked on it")
        time.sleep(_POLL_S)
    if store.is_finished(cell, place):
        return Outcome(REUSED, folder=place.folder)
    job = Job(cell, place, store, tools=tools, environment={}, lock=lock)
    told = False
    while (outcome := job.poll()) is None:
        if guard.requested and not told:
            told = True
            job.tell(signal.SIGTERM)
        time.sleep(_POLL_S)
    return outcome


def _outcome(item: _Queued) -> Outcome:
    try:
        result = item.job.result()
    except Exception as error:  # submitit raises whatever ended the job
        log = tuple(tail(Path(item.job.paths.stderr), _LOG_LINES))
        reason = str(error).strip().splitlines()
        return Outcome(FAILED, f"job {item.job.job_id}: {reason[0] if reason else error!r}", 0, log)
    return result if isinstance(result, Outcome) else Outcome(FAILED, "the job left no outcome")


def _read_numbers(path: Path) -> dict[str, str]:
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return numbers if isinstance(numbers, dict) else {}
