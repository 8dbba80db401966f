"""Cells and tools as jobs: in submitit's local imitation of Slurm, and what sbatch would get."""

import json
import os
import signal
import stat
import sys
from types import SimpleNamespace

import pytest

from mls_d2.config.defaults import get_cfg
from mls_d2.run.launch import tool_parser
from mls_d2.run.signals import InterruptGuard
from mls_d2.runner.executors import run_cells
from mls_d2.runner.slurm import (
    JOBS_FILE,
    CellJob,
    CellNotFinishedError,
    QueuedCell,
    SlurmExecutor,
    SlurmOptions,
    ToolJob,
    add_slurm_arguments,
    submit,
)
from mls_d2.runner.store import Store

FAKE_SBATCH = """#!{python}
import pathlib, shutil, sys
here = pathlib.Path(__file__).parent
number = 100 + len(list(here.glob("*.sh")))
shutil.copy(sys.argv[1], here / f"{number}.sh")
print(f"Submitted batch job {number}")
"""
# Every job of this imitation of Slurm is pending, except those with a .failed file.
FAKE_SACCT = """#!{python}
import pathlib, sys
here = pathlib.Path(__file__).parent
print("JobID|State|NodeList")
for word in sys.argv:
    if word.isdigit():
        state = "FAILED" if (here / f"{word}.failed").exists() else "PENDING"
        print(f"{word}|{state}|None assigned")
"""


def run(bench, cluster="slurm", wait=False, watch=lambda outcomes, running: None, **content):
    """Queue a suite and return the outcomes by name."""
    folder = bench.out / "suite"
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(bench.out)
    options = SlurmOptions("gpu", timeout_min=60, wait=wait, cluster=cluster)
    executor = SlurmExecutor(store, bench.tools, folder, options)
    cells = bench.cells(gpus=True, **content)
    outcomes = run_cells(cells, store, executor, InterruptGuard(), watch=watch)
    return {cell.name: outcome for cell, outcome in outcomes.items()}


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    folder = tmp_path / "slurm-bin"
    folder.mkdir()
    for name, text in (("sbatch", FAKE_SBATCH), ("srun", ""), ("sacct", FAKE_SACCT)):
        path = folder / name
        path.write_text(text.replace("{python}", sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def test_jobs_wait_for_the_one_that_they_need_and_are_queued_once(bench, fake_slurm):
    content = {"methods": ["random", "mls"], "tasks": ["coco", "voc"], "num_gpus": 4}
    assert {item.status for item in run(bench, **content).values()} == {"not run"}
    scripts = {path.stem: path.read_text() for path in fake_slurm.glob("*.sh")}
    assert len(scripts) == 5
    numbers = json.loads((bench.out / "suite" / JOBS_FILE).read_text())
    number = {name.split()[0]: value for name, value in numbers.items()}
    for name, value in number.items():
        script = scripts[value]
        assert "#SBATCH --partition=gpu" in script
        assert "#SBATCH --gpus-per-node=4" in script
        assert f"#SBATCH --job-name={name.replace('/', '-')}" in script
        waits = f"#SBATCH --dependency=afterok:{number['pretrain/mls-seed0']}" in script
        assert waits == (name in ("coco/mls-seed0", "voc/mls-seed0"))
        assert waits == ("#SBATCH --kill-on-invalid-dep=yes" in script)
    run(bench, **content)
    assert len(list(fake_slurm.glob("*.sh"))) == 5


def queue(bench, fake_slurm, **opts):
    """Queue a pretraining and its transfer; return both scripts by the number now wanted."""
    outcomes = run(bench, methods=[{"name": "mls", "method": "mls", "opts": opts}])
    numbers = [outcome.message.split()[1] for outcome in outcomes.values()]
    return {number: (fake_slurm / f"{number}.sh").read_text() for number in numbers}


def test_a_job_of_another_backbone_or_behind_a_failed_job_is_not_reused(bench, fake_slurm):
    assert list(queue(bench, fake_slurm, **{"MLS.K": 5})) == ["100", "101"]
    seven = queue(bench, fake_slurm, **{"MLS.K": 7})
    assert list(seven) == ["102", "103"]
    assert "--dependency=afterok:102" in seven["103"]
    assert list(queue(bench, fake_slurm, **{"MLS.K": 5})) == ["100", "101"]
    (fake_slurm / "100.failed").touch()
    again = queue(bench, fake_slurm, **{"MLS.K": 5})
    assert list(again) == ["104", "105"]
    assert "--dependency=afterok:104" in again["105"]


def test_without_slurm_or_submitit_the_message_names_it(bench, monkeypatch, refuses):
    monkeypatch.setenv("PATH", "")
    with refuses("missing-program"):
        run(bench)
    with refuses("missing-program"):
        submit(print, parse("--slurm", "gpu"), get_cfg())
    monkeypatch.setitem(sys.modules, "submitit", None)
    with refuses("missing-package"):
        submit(print, parse("--slurm", "gpu"), get_cfg())


def parse(*words):
    parser = tool_parser("", "")
    add_slurm_arguments(parser)
    return parser.parse_args(["--config-file", "x.yaml", *words])


def test_a_requeued_tool_resumes_with_the_same_arguments():
    args = parse("--slurm", "gpu", "SEED", "3")
    again = ToolJob(print, args).checkpoint().function
    assert (again._args.resume, again._args.opts) == (True, ["SEED", "3"])
    assert not args.resume


def test_a_job_runs_its_cell_as_on_this_machine(bench):
    bench.control([["mls_quick"], "fail"])

    def run_jobs():
        for cell in bench.cells(gpus=True):
            try:
                yield CellJob(cell, bench.out, bench.tools)().status
            except CellNotFinishedError as error:
                yield str(error)

    assert list(run_jobs()) == [
        "finished",
        "pretrain/mls-seed0 failed: exit code 2, error: no such thing",
        "coco/mls-seed0 skipped: needs pretrain/mls-seed0, which is not finished",
    ]
    bench.control()
    assert list(run_jobs()) == ["reused", "finished", "finished"]
    assert len(bench.calls()) == 4


class EndedJob:
    """A job of Slurm that has ended without a result."""

    job_id = "7"

    def __init__(self, state, folder):
        self.state, self.paths = state, SimpleNamespace(stderr=str(folder / "stderr"))

    def done(self):
        return True

    def result(self):
        raise RuntimeError("Job 7 has not produced any output\nmore lines")


def test_a_job_that_ends_without_a_result_says_why(bench, tmp_path):
    (tmp_path / "stderr").write_text("oom-kill\n")
    pretrain, coco = bench.cells(methods=["mls"], gpus=True)
    store = Store(bench.out)

    def outcome(cell, state):
        return QueuedCell(cell, EndedJob(state, tmp_path), store, fresh=True).poll()

    # The job of a dead pretraining, and the one that waited for it.
    dead = outcome(pretrain, "OUT_OF_MEMORY")
    assert (dead.status, dead.log) == ("failed", ("oom-kill",))
    assert dead.message == "job 7: Job 7 has not produced any output"
    assert outcome(pretrain, "CANCELLED by 0").status == "failed"
    cancelled = outcome(coco, "CANCELLED by 0")
    assert (cancelled.status, cancelled.message) == (
        *("skipped", "needs pretrain/mls-seed0, which did not finish"),
    )
    # A tool that failed: its own words, not those of the job.
    bench.control([["pretrain"], "fail"])
    with pytest.raises(CellNotFinishedError):
        CellJob(pretrain, bench.out, bench.tools)()
    failed = outcome(pretrain, "FAILED")
    assert failed.message == "exit code 2, error: no such thing"
    assert failed.log[-1] == "error: no such thing"
    assert failed.folder == store.place(pretrain).folder


@pytest.mark.full
def test_a_preempted_job_writes_a_checkpoint_is_requeued_and_resumes(bench):
    bench.control([["train_net"], "wait"])
    told = []

    def preempt(outcomes, running):
        if list(bench.out.rglob("started")) and not told:
            # The runner of the job is the parent of the stub, and gets the signals of Slurm.
            (stub,) = bench.calls()
            with open(f"/proc/{stub.pid}/stat") as file:
                told.append(int(file.read().rpartition(")")[2].split()[1]))
            assert running[0].started
            os.kill(told[0], signal.SIGUSR2)

    outcomes = run(bench, cluster="local", wait=True, watch=preempt, methods=["random"])
    assert outcomes["coco/random-seed0"].status == "finished"
    assert list(bench.out.rglob("checkpoint"))
    assert len(bench.calls()) == 2
