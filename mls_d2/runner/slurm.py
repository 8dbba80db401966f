"""Slurm: cells as jobs that wait for one another, and one tool as a job of several nodes."""

import argparse
import copy
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from detectron2.config import CfgNode

from mls_d2.core.errors import Preempted, UserError, exit_code_of
from mls_d2.core.files import write_json
from mls_d2.core.resources import checkout
from mls_d2.run.launch import Main, launch
from mls_d2.run.signals import InterruptGuard
from mls_d2.runner.cells import CONVERT, Cell, Tools
from mls_d2.runner.executors import LocalExecutor, Pool, Running, Wait, run_cells, visible_gpus
from mls_d2.runner.store import FAILED, INTERRUPTED, LOG_FILE, RUNNING, Place, Store, tail
from mls_d2.runner.tool_process import SKIPPED, Outcome

JOBS_FILE = "jobs.json"
DAY_MIN = 24 * 60
# Seconds before its time limit at which a job gets a signal: enough for a step and a checkpoint.
_NOTICE_S = 300
# How often a job that reaches its time limit is requeued.
_MAX_TIMEOUTS = 100
# Until process 0 has requeued the job, in seconds: the end of another process could end it before.
_REQUEUE_S = 20.0
_LOG_LINES = 10
# Signals after which submitit's handler requeues the job.
_REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class SlurmOptions:
    """Where jobs go."""

    partition: str
    timeout_min: int = DAY_MIN  # of a job, after which it is requeued and resumes
    wait: bool = True  # whether to watch the jobs until they end
    cluster: str = "slurm"  # or "local" for submitit's imitation of it on this machine


class CellNotFinishedError(Exception):
    """A job has ended without finishing its cell."""


class CellJob:
    """What the job of a cell runs; submitit pickles it."""

    def __init__(self, cell: Cell, out: Path, tools: Tools) -> None:
        self._cell, self._out, self._tools = cell, out, tools

    def __call__(self) -> Outcome:
        """Run the cell as on one machine; requeue it if the scheduler stops it.

        Raises:
            CellNotFinishedError: the cell failed. The job then ends with an error, after which
                Slurm cancels those that wait for it.
        """
        gpus = visible_gpus()
        store = Store(self._out)
        executor = LocalExecutor(store, self._tools, Pool(gpus, None if gpus else 1))
        with InterruptGuard() as guard:
            outcome = run_cells([self._cell], store, executor, guard)[self._cell]
        if outcome.status == INTERRUPTED and guard.requested in _REQUEUE_SIGNALS:
            # The checkpoint is written; submitit's handler of this signal requeues.
            signal.raise_signal(guard.requested)
        if not outcome.done:
            raise CellNotFinishedError(f"{self._cell.name} {outcome.status}: {outcome.message}")
        return outcome

    def checkpoint(self) -> Any:
        """Return what submitit runs when the job starts again."""
        return import_submitit().helpers.DelayedSubmission(self)


@dataclass(frozen=True, eq=False)
class QueuedCell:
    """A cell whose job is queued or running."""

    cell: Cell
    job: Any  # of submitit
    store: Store
    fresh: bool  # whether this run queued it, not an earlier one

    def __str__(self) -> str:
        return f"job {self.job.job_id}"

    @property
    def started(self) -> bool:
        """Whether its tool runs, read from its record: the scheduler's answer comes later."""
        place = self.store.place(self.cell)
        record = self.store.record(place) if place else None
        return record is not None and record.status == RUNNING

    def stop(self, number: int) -> None:
        """Leave the job alone: it outlives the runner."""

    def poll(self) -> Outcome | None:
        """Return the outcome once the job has ended."""
        if not self.job.done():
            return None
        try:
            result = self.job.result()
        except Exception as error:  # submitit raises whatever ended the job
            return self._without_result(error)
        return result if isinstance(result, Outcome) else Outcome(FAILED, "the job has no outcome")

    def _without_result(self, error: Exception) -> Outcome:
        place = self.store.place(self.cell)
        if place is None and self.cell.needs and str(self.job.state).startswith("CANCELLED"):
            return Outcome(SKIPPED, f"needs {self.cell.needs.name}, which did not finish")
        record = self.store.record(place) if place else None
        if place and record and record.status == FAILED:
            log = tuple(tail(place.folder / LOG_FILE, _LOG_LINES))
            return Outcome(FAILED, record.message, record.seconds, log, place.folder)
        log = tuple(tail(Path(self.job.paths.stderr), _LOG_LINES))
        reason = [*str(error).strip().splitlines(), repr(error)][0]
        return Outcome(FAILED, f"{self}: {reason}", 0, log)


class SlurmExecutor:
    """Queues cells as jobs. A second run finds the jobs of the first one, and queues none twice.

    All machines share the store and ``folder``, which is for the files and numbers of the jobs.

    Raises:
        UserError: no submitit or no Slurm here.
    """

    detached = True

    def __init__(self, store: Store, tools: Tools, folder: Path, options: SlurmOptions) -> None:
        self._executor = _executor(folder / "slurm", options.cluster, "sbatch", "srun")
        submitit = import_submitit()
        self._job_class = submitit.SlurmJob if options.cluster == "slurm" else submitit.LocalJob
        self._store, self._tools, self._options = store, tools, options
        self._numbers_file = folder / JOBS_FILE
        self._numbers = _read_numbers(self._numbers_file)
        self.jobs = sys.maxsize
        self.wait = options.wait
        self.poll_s = 2.0 if options.cluster == "slurm" else 0.2

    def start(
        self, cell: Cell, place: Place | None, source: Running | None
    ) -> Running | Outcome | Wait:
        """Queue a cell behind the one that it needs: see :class:`Executor`."""
        assert source is None or isinstance(source, QueuedCell)
        own = f"{cell.name} {_identity(cell)}"
        # An old job behind a new one waits for another job, which has failed.
        if own in self._numbers and (source is None or not source.fresh):
            job = self._job_class(self._executor.folder, self._numbers[own])
            if not job.done(force_check=True):
                return QueuedCell(cell, job, self._store, fresh=False)
        extra = {}
        if source is not None and self._options.cluster == "slurm":
            # If the other one fails or is cancelled, so is this one, which would wait for ever.
            dependency = f"afterok:{source.job.job_id}"
            extra = {"dependency": dependency, "kill_on_invalid_dep": "yes"}
        elif source is not None:
            source.job.wait()
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
        job = self._executor.submit(CellJob(cell, self._store.out, self._tools))
        self._numbers[own] = job.job_id
        write_json(str(self._numbers_file), self._numbers)
        return QueuedCell(cell, job, self._store, fresh=True)


class ToolJob:
    """What each process of a tool's job runs; submitit pickles it."""

    def __init__(self, main: Main, args: argparse.Namespace) -> None:
        self._main, self._args = main, copy.copy(args)
        self._stopped_by = 0

    def __call__(self) -> None:
        """Run the tool, and let submitit requeue the job if the scheduler stopped it."""
        environment = import_submitit().helpers.TorchDistributedEnvironment()
        environment.export(set_cuda_visible_devices=False, overwrite=True)
        # Slurm itself restarts a job, too, after a preemption or the loss of a machine.
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            self._args.resume = True
        self._args.num_gpus = self._args.num_machines = 1  # Slurm has started the processes
        code = exit_code_of(lambda: launch(self._run, self._args))
        if self._stopped_by in _REQUEUE_SIGNALS:
            # The run held it back until the checkpoint was written; SIGTERM comes from `scancel`,
            # and from preemptions after which Slurm itself requeues.
            signal.raise_signal(self._stopped_by)
            time.sleep(_REQUEUE_S)
        if code:
            sys.exit(code)

    def checkpoint(self) -> Any:
        """Return what submitit runs when the job starts again."""
        args = copy.copy(self._args)
        args.resume = True
        return import_submitit().helpers.DelayedSubmission(ToolJob(self._main, args))

    def _run(self, args: argparse.Namespace) -> int | None:
        try:
            return self._main(args)
        except Preempted as stop:
            self._stopped_by = stop.number
            raise


def add_slurm_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of :func:`submit` to the parser of a tool."""
    group = parser.add_argument_group(
        "Slurm", "--num-machines are its nodes, --num-gpus GPUs and tasks per node"
    )
    group.add_argument("--slurm", metavar="PARTITION", help="queue the run there and return")
    help_ = "time limit, after which the job is requeued and resumes (default: a day)"
    group.add_argument("--slurm-timeout", type=int, default=DAY_MIN, metavar="MINUTES", help=help_)
    group.add_argument("--slurm-comment", default="", metavar="TEXT", help="shown by the queue")


def submit(main: Main, args: argparse.Namespace, cfg: CfgNode, *, cluster: str = "slurm") -> int:
    """Queue ``main(args)``, print the number of the job, and return the exit code 0.

    Its log and what ``submitit`` needs go to ``OUTPUT_DIR/slurm``.

    Args:
        main: the tool; each process of the job runs it.
        args: its arguments, with those of :func:`add_slurm_arguments`.
        cfg: the config of ``args``, read here so that a mistake shows before the job waits.
        cluster: ``"slurm"``, or ``"local"`` to run submitit's imitation of it on this machine.

    Raises:
        UserError: no ``submitit`` or no Slurm here.
    """
    executor = _executor(Path(cfg.OUTPUT_DIR) / "slurm", cluster, "sbatch")
    executor.update_parameters(
        name=Path(args.config_file).stem,
        nodes=args.num_machines,
        tasks_per_node=args.num_gpus,
        gpus_per_node=args.num_gpus,
        cpus_per_task=cfg.DATALOADER.NUM_WORKERS + 1,
        timeout_min=args.slurm_timeout,
        slurm_partition=args.slurm,
        slurm_signal_delay_s=_NOTICE_S,
        **({"slurm_comment": args.slurm_comment} if args.slurm_comment else {}),
    )
    job = executor.submit(ToolJob(main, args))
    sys.stdout.write(f"queued as job {job.job_id}; log: {job.paths.stdout}\n")
    return 0


def import_submitit() -> ModuleType:
    """Return the package, which is optional.

    Raises:
        UserError: it is not installed.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            "--slurm needs submitit: pip install 'mls_d2[slurm]'", code="missing-package"
        ) from None
    return submitit


def _executor(folder: Path, cluster: str, *programs: str) -> Any:
    submitit = import_submitit()
    for program in programs if cluster == "slurm" else ():
        if shutil.which(program) is None:
            raise UserError(
                f"--slurm needs Slurm's {program}, which is not in the PATH of this machine",
                code="missing-program",
            )
    # Jobs inherit this environment, and have to find this checkout. (An installed package is found,
    # and its folder has modules that must not hide those of Python.)
    if clone := checkout():
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(clone), *filter(None, paths)])
    return submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=_MAX_TIMEOUTS)


def _identity(cell: Cell) -> str:
    """Return a digest of a cell and those that it needs, whose weights may not exist yet."""
    return cell.key(_identity(cell.needs) if cell.needs else "")


def _read_numbers(path: Path) -> dict[str, str]:
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return numbers if isinstance(numbers, dict) else {}
