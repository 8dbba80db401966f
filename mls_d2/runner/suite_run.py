"""A suite from its data to its report."""

import contextlib
import fcntl
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mls_d2.core.errors import UserError
from mls_d2.core.files import check_writable, is_empty, write_bytes, write_json
from mls_d2.data.datasets import datasets_root
from mls_d2.run.signals import InterruptGuard
from mls_d2.runner.cells import (
    BACKBONE_FILE,
    PRETRAIN,
    TRANSFER,
    Cell,
    Tools,
    parts_of_scenes,
    plan_cells,
)
from mls_d2.runner.display import Display
from mls_d2.runner.estimate import CostOf, costs_text
from mls_d2.runner.executors import Executor, LocalExecutor, Pool, run_cells, visible_gpus
from mls_d2.runner.plan import plan_text, summary_text, summary_values
from mls_d2.runner.slurm import SlurmExecutor, SlurmOptions
from mls_d2.runner.store import Store
from mls_d2.runner.suite import Suite
from mls_d2.runner.tool_process import Outcome
from mls_d2.scenes import generate, read_marker

EXIT_FAILED_CELLS = 3
SUMMARY_FILE = "summary.txt"
STATE_FILE = "cells.json"
REPORT_FOLDER = "report"
LOCK_FILE = "suite.lock"
# The last that a tool prints if it refuses its input.
_ERROR = re.compile(r"(?ms)^error: (.*?)(?: \[([\w-]+)\])?\s*\Z")
# Images of each of the parts of the scenes that are generated when a task first reads them.
_IMAGES = {"voc": 400, "cityscapes": 200}


@dataclass(frozen=True)
class Options:
    """How to run a suite."""

    out: Path  # folder of the cells, which suites share, and of one folder per suite
    dry_run: bool = False  # only show the plan
    jobs: int | None = None  # how many cells run at a time; None: as many as there is room for
    slurm: SlurmOptions | None = None  # where to queue; None: this machine
    evaluate_only: bool = False  # refuse to pretrain: every backbone must be finished
    report: bool = True  # else print the results beside the paper's
    update: Path | None = None  # a Markdown file whose tables the report updates
    follow: bool = False  # print the output of the tools
    cost_of: CostOf | None = None  # for a dry run: what training a cell costs


def run_suite(suite: Suite, options: Options, tools: Tools) -> int:
    """Run what is not finished, sum it up and write the report; return the exit code.

    Codes: 0 all is finished, 3 a cell failed or could not run; else that of the tool that reports.

    Raises:
        UserError: missing data, a bad config, a folder that cannot be written.
        KeyboardInterrupt: Ctrl-C; the cells have written their checkpoints.
        Preempted: a signal of a scheduler; likewise.
    """
    if not options.dry_run:
        check_data(suite)
        if suite.preset == "quick":
            provide_scenes(Path(datasets_root()), parts_of_scenes(suite))
    gpus = visible_gpus()
    # Published recipes are planned for the GPUs that they are made for, on any machine.
    planned = options.slurm is not None or (options.dry_run and suite.preset == "paper")
    cells = plan_cells(suite, gpus=bool(gpus) or planned)
    store = Store(options.out)
    to_do = [cell for cell in cells if not store.has_finished(cell)]
    pool = Pool(gpus, options.jobs, most=len(to_do))
    durations = store.durations()
    jobs = len(cells) if options.slurm else pool.jobs
    print_now(plan_text(suite, cells, store, durations, jobs))
    if options.dry_run:
        if options.cost_of is not None and to_do:
            print_now(costs_text(to_do, options.cost_of))
        return 0
    check_can_run(suite, to_do, options, gpus)
    folder = store.out / suite.name
    check_writable(str(folder))
    check_transfers(to_do, store, tools)
    executor: Executor
    if options.slurm is None:
        executor = LocalExecutor(store, tools, pool)
    else:
        executor = SlurmExecutor(store, tools, folder, options.slurm)
    display = Display(cells, store, durations, jobs, sys.stderr, follow=options.follow)
    with InterruptGuard() as guard:
        outcomes = run_cells(cells, store, executor, guard, durations=durations, watch=display)
    display.close()
    with locked(folder):
        links = _sum_up(suite, cells, outcomes, folder)
        guard.raise_if_agreed()
        code = _report(links, folder, tools, options)
    done = all(outcome.done for outcome in outcomes.values())
    return code if done or not executor.wait else EXIT_FAILED_CELLS


def check_data(suite: Suite) -> None:
    """Refuse to begin the published recipes without the real datasets.

    Raises:
        UserError: names the folder.
    """
    root = datasets_root()
    if suite.preset == "quick":
        return
    if not os.path.isdir(root):
        raise UserError(
            f"preset {suite.preset} needs the real datasets, and '{root}' is not a folder; set "
            "DETECTRON2_DATASETS, or --data, to the folder with coco/, VOC2007/, …: "
            "docs/datasets.md",
            code="missing-data",
        )
    if read_marker(root) is not None:
        raise UserError(
            f"'{root}' contains generated scenes, and suite '{suite.name}' is for the real "
            "datasets; set DETECTRON2_DATASETS, or --data, to the folder with coco/",
            code="missing-data",
        )


def provide_scenes(root: Path, parts: set[str]) -> None:
    """Generate the scenes that the tasks of a suite read, if they are not there yet.

    A folder that contains other data is left as it is.

    Raises:
        UserError: the folder cannot be written.
    """
    marker = read_marker(root)
    if marker is None:
        if is_empty(root):
            generate(root, **{name: count for name, count in _IMAGES.items() if name in parts})
        return
    missing = {n: count for n, count in _IMAGES.items() if n in parts and not marker[n]}
    if missing or not marker["complete"]:
        # A count of 0 leaves a part as it is.
        counts = {"train": 0, "val": 0, "unlabeled": 0} | missing
        generate(root, seed=marker["seed"], size=tuple(marker["size"]), **counts)


def check_can_run(
    suite: Suite, to_do: Sequence[Cell], options: Options, gpus: Sequence[str]
) -> None:
    """Refuse what would take months, or what was not asked for.

    Raises:
        UserError: the published recipes without a GPU, or an evaluation without its backbone.
    """
    missing = [cell.name for cell in to_do if cell.stage == PRETRAIN]
    if options.evaluate_only and missing:
        message = (
            f"not pretrained yet: {', '.join(missing)}. Run it first (make pretrain, or --only "
            "pretrain), with the same method, preset, seed, GPUs, data and options"
        )
        files = [options.out / suite.name / name / BACKBONE_FILE for name in missing]
        for file in filter(Path.is_file, files):
            message += f"; '{file}' is another one: BACKBONE='{file}' or --backbone evaluates it"
        raise UserError(message, code="missing-backbone")
    on_cpu = all(("MODEL.DEVICE", "cpu") in itertools.pairwise(cell.arguments) for cell in to_do)
    if suite.preset != "quick" and to_do and not (gpus or options.slurm or on_cpu):
        raise UserError(
            f"preset {suite.preset} is for GPUs, and PyTorch finds none on this machine; a CPU "
            "finishes preset quick in minutes (MODEL.DEVICE cpu runs it nevertheless)",
            code="no-gpu",
        )


def check_transfers(to_do: Sequence[Cell], store: Store, tools: Tools) -> None:
    """Check the data of the tasks that wait for a new pretraining, before that takes its hours.

    Generated scenes are not checked.

    Raises:
        UserError: of the first task whose data cannot be used.
    """
    if read_marker(datasets_root()) is not None:
        return
    new = [cell for cell in to_do if (place := store.place(cell)) and not store.record(place)]
    waiting = [cell for cell in to_do if cell.stage == TRANSFER and cell.needs in new]
    tasks = {cell.recipe: cell.name.partition("/")[0] for cell in waiting}
    for (config, words), task in tasks.items():
        print_now(f"checking the data of {task}")
        command = [*tools.train_net, "--config-file", config, "--dry-run", *words]
        run = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
            errors="replace",
        )  # fmt: skip
        if run.returncode:
            line = _ERROR.search(run.stderr)
            problem, code = line.groups() if line else (run.stderr[-2000:], "failed-check")
            message = f"the check of task '{task}' ended with {run.returncode}: {problem.strip()}"
            raise UserError(message, code=code or "")


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
            message = f"cannot lock '{folder}': {error.strerror}"
            raise UserError(message, code="no-space") from None
        yield


def link_cells(
    folder: Path, cells: Sequence[Cell], outcomes: Mapping[Cell, Outcome]
) -> dict[Cell, Path]:
    """Make ``folder/<task>/<method>-seed<seed>`` a link to the folder of each cell.

    Links of earlier runs stay if their cells still exist, and are replaced if they have the same
    name.

    Returns:
        The links of the finished cells.

    Raises:
        UserError: a link cannot be made or removed.
    """
    links = {}
    try:
        for old in folder.glob("*/*"):
            if old.is_symlink() and not old.exists():
                old.unlink(missing_ok=True)
        for cell in cells:
            target = outcomes[cell].folder
            if target is None or not target.is_dir():
                continue
            link = folder / cell.name
            link.parent.mkdir(exist_ok=True)
            if link.is_symlink():
                link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(target, link.parent))
            if outcomes[cell].done:
                links[cell] = link
    except OSError as error:
        reason = f"'{error.filename2 or error.filename}': {error.strerror}"
        raise UserError(
            f"cannot renew the links in '{folder}': {reason}", code="no-space"
        ) from None
    return links


def print_now(text: str) -> None:
    """Print text before anything that the tools print."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _sum_up(
    suite: Suite, cells: Sequence[Cell], outcomes: Mapping[Cell, Outcome], folder: Path
) -> dict[Cell, Path]:
    summary = summary_text(suite, cells, outcomes)
    print_now(summary)
    write_bytes(folder / SUMMARY_FILE, f"{summary}\n".encode())
    write_json(str(folder / STATE_FILE), summary_values(cells, outcomes))
    return link_cells(folder, cells, outcomes)


def _report(links: Mapping[Cell, Path], folder: Path, tools: Tools, options: Options) -> int:
    """Report on the finished evaluations of this suite, and return the exit code of the tool."""
    results = [str(link) for cell, link in links.items() if cell.stage == TRANSFER]
    if not results:
        return 0
    if not options.report:
        return subprocess.run([*tools.report, "--summary", *results], check=False).returncode
    words = [*tools.report, *map(str, links.values()), "--out", str(folder / REPORT_FOLDER)]
    words += ["--update", str(options.update)] if options.update else []
    return subprocess.run(words, check=False).returncode
