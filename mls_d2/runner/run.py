"""A benchmark from its suite to its report."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mls_d2.core.errors import Preempted, UserError
from mls_d2.core.files import atomic_write, check_writable, write_json
from mls_d2.data.dataset_files import datasets_root
from mls_d2.runner.cells import TRANSFER, Cell, Tools, plan_cells
from mls_d2.runner.cluster import SlurmOptions, SlurmRun
from mls_d2.runner.job import Outcome
from mls_d2.runner.local import LocalRun, Pool, StopSignals
from mls_d2.runner.progress import Progress
from mls_d2.runner.store import Store
from mls_d2.runner.suite import Suite
from mls_d2.runner.summary import plan_text, state_of, summary_text
from mls_d2.scenes import read_marker

EXIT_FAILED_CELLS = 3
SUMMARY_FILE = "summary.txt"
STATE_FILE = "cells.json"
REPORT_FOLDER = "report"
LOCK_FILE = "suite.lock"


@dataclass(frozen=True)
class Options:
    """How to run.

    Attributes:
        out: folder of the cells, which suites share, and of one folder a suite.
        dry_run: only show the plan.
        jobs: how many cells run at a time; None for as many as there is room for.
        slurm: where to queue; None to run on this machine.
        update: a file whose table the report brings up to date.
    """

    out: Path
    dry_run: bool = False
    jobs: int | None = None
    slurm: SlurmOptions | None = None
    update: Path | None = None


def run_benchmark(suite: Suite, options: Options, tools: Tools) -> int:
    """Run what is not finished, sum it up and write the report; return the exit code.

    Codes: 0 all is finished, 3 a cell failed or could not run; else those of the report's tool.

    Raises:
        UserError: missing data, a bad config, a folder that cannot be written.
        KeyboardInterrupt: Ctrl-C; the cells have written their checkpoints.
        Preempted: SIGTERM; likewise.
    """
    check_data(suite)
    pool = Pool(visible_gpus(), options.jobs)
    cells = plan_cells(suite, gpus=bool(pool.gpus) or options.slurm is not None)
    store = Store(options.out)
    durations = store.durations()
    jobs = len(cells) if options.slurm else pool.jobs
    print_now(plan_text(suite, cells, store, durations, jobs))
    if options.dry_run:
        return 0
    folder = store.out / suite.name
    check_writable(str(folder))
    progress = Progress(cells, durations, jobs, sys.stderr)
    run: LocalRun | SlurmRun
    if options.slurm is None:
        run = LocalRun(cells, store, tools=tools, pool=pool, durations=durations, watch=progress)
    else:
        run = SlurmRun(
            cells, store, tools=tools, folder=folder, options=options.slurm, watch=progress
        )
    with StopSignals() as stop:
        outcomes = run.run(stop)
    progress.close()
    summary = summary_text(suite, cells, outcomes)
    print_now(summary)
    with atomic_write(str(folder / SUMMARY_FILE), "w") as file:
        file.write(f"{summary}\n")
    write_json(str(folder / STATE_FILE), state_of(cells, outcomes))
    with locked(folder):
        links = link_cells(folder, cells, outcomes)
        if stop.first == signal.SIGINT:
            raise KeyboardInterrupt
        if stop.first:
            raise Preempted(stop.first)
        code = _report(links, folder / REPORT_FOLDER, tools, options.update)
    done = all(outcome.done for outcome in outcomes.values())
    waiting = options.slurm is not None and not options.slurm.wait
    return code if done or waiting else EXIT_FAILED_CELLS


def check_data(suite: Suite) -> None:
    """Refuse to begin without data, or with scenes where the published recipes are meant.

    Raises:
        UserError: says which folder it looked at.
    """
    root = datasets_root()
    if not os.path.isdir(root):
        raise UserError(
            f"there is no folder of datasets '{root}': make scenes with "
            "tools/make_scenes.py --root FOLDER, and set DETECTRON2_DATASETS to that folder"
        )
    if suite.preset == "paper" and read_marker(root) is not None:
        raise UserError(
            f"'{root}' holds generated scenes, and suite '{suite.name}' is for the real datasets; "
            "set DETECTRON2_DATASETS to the folder that holds coco/"
        )


def visible_gpus() -> list[str]:
    """Return the GPUs of this process, as ``CUDA_VISIBLE_DEVICES`` names them."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(index) for index in range(count)]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the links and the report of a suite, once no other run does.

    Raises:
        UserError: the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context((folder / LOCK_FILE).open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(f"cannot lock '{folder}': {error.strerror}") from None
        yield


def link_cells(
    folder: Path, cells: Sequence[Cell], outcomes: Mapping[Cell, Outcome]
) -> dict[Cell, Path]:
    """Make ``folder/<task>/<row>-seed<seed>`` a link to each cell's folder; remove older links.

    Returns:
        The links of the finished cells.

    Raises:
        UserError: a link cannot be made or removed.
    """
    links = {}
    try:
        for old in folder.glob("*/*"):
            if old.is_symlink():
                old.unlink(missing_ok=True)
        for cell in cells:
            target = outcomes[cell].folder
            if target is None or not target.is_dir():
                continue
            link = folder / cell.name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(os.path.relpath(target, link.parent))
            if outcomes[cell].done:
                links[cell] = link
    except OSError as error:
        reason = f"'{error.filename2 or error.filename}': {error.strerror}"
        raise UserError(f"cannot renew the links in '{folder}': {reason}") from None
    return links


def print_now(text: str) -> None:
    """Print text that has to stand before what the tools print."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _report(links: Mapping[Cell, Path], out: Path, tools: Tools, update: Path | None) -> int:
    """Run the report's tool on the finished cells of this suite, and return its exit code."""
    if not any(cell.stage == TRANSFER for cell in links):
        print_now("no report: no evaluation has finished")
        return 0
    words = [*tools.report, *map(str, links.values()), "--out", str(out)]
    words += ["--update", str(update)] if update else []
    return subprocess.run(words, check=False).returncode
