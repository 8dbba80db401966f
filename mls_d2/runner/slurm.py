"""Submits a tool to Slurm as a job that writes a checkpoint when preempted, and queues again."""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from detectron2.config import CfgNode

import mls_d2
from mls_d2.core.errors import Preempted, UserError, exit_code_of
from mls_d2.run.launch import Main, launch

# How long before its time limit a job is told, in seconds: enough for a step and a checkpoint.
_NOTICE_S = 300
# How often a job that reaches its time limit queues again.
_MAX_TIMEOUTS = 100
# Until process 0 has put the job back into the queue, in seconds: the end of another process could
# end the job before.
_REQUEUE_S = 20.0


def add_slurm_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of :func:`submit` to a tool's parser."""
    group = parser.add_argument_group(
        "Slurm", "nodes are --num-machines, GPUs and tasks a node --num-gpus"
    )
    group.add_argument("--slurm", metavar="PARTITION", help="queue the run there and return")
    group.add_argument(
        "--slurm-timeout",
        type=int,
        default=24 * 60,
        metavar="MINUTES",
        help="time limit, after which the job queues again and goes on (default a day)",
    )
    group.add_argument("--slurm-comment", default="", metavar="TEXT", help="shown by the queue")


def submit(main: Main, args: argparse.Namespace, cfg: CfgNode, *, cluster: str = "slurm") -> int:
    """Queue ``main(args)``, print the job's number, and return the exit code 0.

    Its log and what ``submitit`` needs go to ``OUTPUT_DIR/slurm``.

    Args:
        main: the tool; each of the job's processes runs it.
        args: its arguments, with those of :func:`add_slurm_arguments`.
        cfg: the config that ``args`` name, read so that a mistake shows before the job waits.
        cluster: ``"slurm"``, or ``"local"`` to run submitit's imitation of it on this machine.

    Raises:
        UserError: no ``submitit`` or no Slurm here.
    """
    submitit = import_submitit()
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError("--slurm needs Slurm's sbatch, which this machine does not have")
    folder = os.path.join(cfg.OUTPUT_DIR, "slurm")
    executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=_MAX_TIMEOUTS)
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
    let_jobs_import_us()
    job = executor.submit(SlurmJob(main, args))
    sys.stdout.write(f"queued as job {job.job_id}; log: {job.paths.stdout}\n")
    return 0


class SlurmJob:
    """What each process of the job runs; submitit pickles it.

    Args:
        main: the tool.
        args: its arguments.
    """

    def __init__(self, main: Main, args: argparse.Namespace) -> None:
        self._main, self._args = main, copy.copy(args)
        self._stopped_by = 0

    def __call__(self) -> None:
        """Run the tool, and let submitit queue the job again where it was told to stop."""
        environment = import_submitit().helpers.TorchDistributedEnvironment()
        environment.export(set_cuda_visible_devices=False, overwrite=True)
        # Slurm starts a job again by itself, too, after a preemption or the loss of a machine.
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            self._args.resume = True
        self._args.num_gpus = self._args.num_machines = 1  # the processes are there already
        code = exit_code_of(lambda: launch(self._run, self._args))
        if self._stopped_by in (signal.SIGUSR1, signal.SIGUSR2):
            # The guard of the run held it back until the checkpoint was written; SIGTERM comes
            # from `scancel`, and from preemptions that Slurm itself queues again.
            signal.raise_signal(self._stopped_by)
            time.sleep(_REQUEUE_S)
        if code:
            sys.exit(code)

    def checkpoint(self) -> Any:
        """Return what submitit is to run when the job starts again."""
        args = copy.copy(self._args)
        args.resume = True
        return import_submitit().helpers.DelayedSubmission(SlurmJob(self._main, args))

    def _run(self, args: argparse.Namespace) -> int | None:
        try:
            return self._main(args)
        except Preempted as stop:
            self._stopped_by = stop.number
            raise


def let_jobs_import_us() -> None:
    """Put this checkout on the path of jobs, which inherit the environment of who queues them."""
    root = str(Path(mls_d2.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def import_submitit() -> ModuleType:
    """Return the package, which is optional.

    Raises:
        UserError: it is not installed.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("--slurm needs submitit: pip install 'mls_d2[slurm]'") from None
    return submitit
