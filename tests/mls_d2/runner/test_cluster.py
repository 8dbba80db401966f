"""Cells as jobs: in submitit's local imitation of Slurm, and as what sbatch would get."""

import json
import os
import signal
import stat
import sys
import time

import pytest

from mls_d2.core.errors import UserError
from mls_d2.runner.cells import plan_cells
from mls_d2.runner.cluster import JOBS_FILE, SlurmOptions, SlurmRun
from mls_d2.runner.local import StopSignals
from mls_d2.runner.store import Store

FAKE_SBATCH = """#!{python}
import pathlib, shutil, sys
here = pathlib.Path(__file__).parent
number = 100 + len(list(here.glob("*.sh")))
shutil.copy(sys.argv[1], here / f"{number}.sh")
print(f"Submitted batch job {number}")
"""
# Every job of this imitation of Slurm is still waiting, but for those that a file says failed.
FAKE_SACCT = """#!{python}
import pathlib, sys
here = pathlib.Path(__file__).parent
print("JobID|State|NodeList")
for word in sys.argv:
    if word.isdigit():
        state = "FAILED" if (here / f"{word}.failed").exists() else "PENDING"
        print(f"{word}|{state}|None assigned")
"""


def make(bench, watch=lambda outcomes, running: None, cluster="local", wait=True, **content):
    folder = bench.out / "suite"
    folder.mkdir(parents=True, exist_ok=True)
    return SlurmRun(
        plan_cells(bench.suite(**content), gpus=True),
        Store(bench.out),
        tools=bench.tools,
        folder=folder,
        options=SlurmOptions("gpu", timeout_min=60, wait=wait, cluster=cluster),
        watch=watch,
    )


def statuses(outcomes):
    return {cell.name: outcome.status for cell, outcome in outcomes.items()}


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
    outcomes = make(bench, cluster="slurm", wait=False, **content).run(StopSignals())
    assert set(statuses(outcomes).values()) == {"not run"}
    scripts = {path.stem: path.read_text() for path in fake_slurm.glob("*.sh")}
    assert len(scripts) == 5
    numbers = json.loads((bench.out / "suite" / JOBS_FILE).read_text())
    number = {name.split()[0]: value for name, value in numbers.items()}
    for name, value in number.items():
        script = scripts[value]
        assert "#SBATCH --partition=gpu" in script
        assert "#SBATCH --gpus-per-node=4" in script
        assert f"#SBATCH --job-name={name.replace('/', '-')}" in script
        waits = f"#SBATCH --dependency=afterany:{number['pretrain/mls-seed0']}" in script
        assert waits == (name in ("coco/mls-seed0", "voc/mls-seed0"))
    make(bench, cluster="slurm", wait=False, **content).run(StopSignals())
    assert len(list(fake_slurm.glob("*.sh"))) == 5


def queue(bench, fake_slurm, **opts):
    """Queue a pretraining and its transfer; return both scripts by the number, as now wanted."""
    row = {"name": "mls", "method": "mls", "opts": opts}
    run = make(bench, cluster="slurm", wait=False, methods=[row])
    outcomes = run.run(StopSignals())
    numbers = [outcome.message.split()[1] for outcome in outcomes.values()]
    return {number: (fake_slurm / f"{number}.sh").read_text() for number in numbers}


def test_a_waiting_job_of_another_backbone_is_not_taken_for_this_ones(bench, fake_slurm):
    assert list(queue(bench, fake_slurm, **{"MLS.K": 5})) == ["100", "101"]
    seven = queue(bench, fake_slurm, **{"MLS.K": 7})
    assert list(seven) == ["102", "103"]
    assert "--dependency=afterany:102" in seven["103"]
    assert list(queue(bench, fake_slurm, **{"MLS.K": 5})) == ["100", "101"]


def test_what_waits_for_a_job_that_failed_is_queued_again_behind_the_new_one(bench, fake_slurm):
    assert list(queue(bench, fake_slurm)) == ["100", "101"]
    (fake_slurm / "100.failed").touch()
    again = queue(bench, fake_slurm)
    assert list(again) == ["102", "103"]
    assert "--dependency=afterany:102" in again["103"]


def test_without_slurm_the_user_is_told(bench, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="sbatch"):
        make(bench, cluster="slurm")


@pytest.mark.slow
def test_jobs_run_fail_and_are_skipped_as_on_this_machine(bench):
    bench.control([["mls_quick"], "fail"])
    outcomes = make(bench).run(StopSignals())
    assert statuses(outcomes) == {
        "coco/random-seed0": "finished",
        "pretrain/mls-seed0": "failed",
        "coco/mls-seed0": "skipped",
    }
    failed = next(item for item in outcomes.values() if item.status == "failed")
    assert failed.log[-1] == "error: no such thing"
    bench.control()
    assert statuses(make(bench).run(StopSignals())) == {
        "coco/random-seed0": "reused",
        "pretrain/mls-seed0": "finished",
        "coco/mls-seed0": "finished",
    }
    assert len(bench.calls()) == 4


@pytest.mark.slow
def test_a_preempted_job_writes_a_checkpoint_queues_again_and_goes_on(bench):
    bench.control([["train_net"], "wait"])
    run = make(bench, methods=["random"], wait=False)
    run.run(StopSignals())
    deadline = time.monotonic() + 60
    while not list(bench.out.rglob("started")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # The runner of the job is the parent of the stub, and is what Slurm tells.
    (stub,) = bench.calls()
    with open(f"/proc/{stub.pid}/stat") as file:
        runner = int(file.read().rpartition(")")[2].split()[1])
    os.kill(runner, signal.SIGUSR2)
    (cell,) = plan_cells(bench.suite(methods=["random"]), gpus=True)
    store = Store(bench.out)
    while not store.is_finished(cell, store.place(cell)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert list(bench.out.rglob("checkpoint"))
    assert len(bench.calls()) == 2
