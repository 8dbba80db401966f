"""Cells on this machine, with stubs in place of the tools."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mls_d2.core.errors import UserError
from mls_d2.runner import cells as module
from mls_d2.runner.cells import plan_cells
from mls_d2.runner.job import Job
from mls_d2.runner.local import LocalRun, Pool, StopSignals
from mls_d2.runner.store import RECORD_FILE, Store

MATRIX = {"methods": ["random", "mocov2", "mls"], "tasks": ["coco", "voc"], "seeds": [0, 1]}


def statuses(outcomes):
    return {name: outcome.status for name, outcome in outcomes.items()}


def kinds(calls):
    return [call.words[0] for call in calls]


def run_cells(bench, cells, pool):
    run = LocalRun(
        cells,
        Store(bench.out),
        tools=bench.tools,
        pool=pool,
        durations={},
        watch=lambda outcomes, running: None,
    )
    return {cell.name: outcome for cell, outcome in run.run(StopSignals()).items()}


def records(bench):
    return {
        content["name"]: content
        for content in map(json.loads, (p.read_text() for p in bench.out.rglob(RECORD_FILE)))
    }


def test_what_is_needed_runs_first_and_once_for_all_tasks_and_seeds(bench):
    outcomes = bench.run(**MATRIX)
    assert set(statuses(outcomes).values()) == {"finished"}
    assert len(outcomes) == 2 + 3 * 2 * 2
    starts, ends = bench.calls(), bench.calls("end")
    assert sorted(kinds(starts)) == ["pretrain"] * 2 + ["train_net"] * 12
    for start in starts:
        weights = (
            start.words[start.words.index("MODEL.WEIGHTS") + 1 :][:1]
            if start.words[0] != "pretrain"
            else ["random"]
        )
        if weights != ["random"]:
            folder = os.path.dirname(weights[0])
            (made,) = [end for end in ends if end.words[-1] == folder]
            assert made.time <= start.time


def test_no_more_than_the_allowed_number_run_at_a_time(bench):
    bench.control([["coco"], "slow"], [["voc"], "slow"])
    bench.run(jobs=3, methods=["random"], tasks=["coco", "voc"], seeds=[0, 1, 2])
    events = [(c.time, 1) for c in bench.calls()] + [(c.time, -1) for c in bench.calls("end")]
    running, most = 0, 0
    for _, change in sorted(events):
        running += change
        most = max(most, running)
    assert most == 3
    cores = len(os.sched_getaffinity(0))
    assert {c.environment["OMP_NUM_THREADS"] for c in bench.calls()} == {str(max(1, cores // 3))}


def test_the_longest_go_first_among_those_that_nothing_waits_for(bench):
    voc = next(
        cell for cell in plan_cells(bench.suite(tasks=["voc"]), gpus=False) if cell.needs is None
    )
    bench.run(1, {voc.family: 100.0}, methods=["random", "mls"], tasks=["coco", "voc"])
    order = [" ".join(call.words) for call in bench.calls()]
    assert "mls_quick" in order[0]
    assert ["faster" in line for line in order[1:]] == [True, True, False, False]


def test_a_cell_that_needs_all_gpus_is_not_overtaken_for_ever(bench):
    bench.control([["coco"], "slow"])
    tasks = [{"task": "coco", "num_gpus": 1}, {"task": "voc", "num_gpus": 2}]
    suite = bench.suite(methods=["random"], tasks=tasks, seeds=[0, 1, 2])
    first, *others = plan_cells(suite, gpus=True)
    cells = [first, *sorted(others, key=lambda cell: -cell.num_gpus)]
    run_cells(bench, cells, Pool(["0", "1"], None))
    order = [("mask" in " ".join(call.words), call.environment) for call in bench.calls()]
    assert [is_coco for is_coco, _ in order] == [True, False, False, False, True, True]
    assert {item["CUDA_VISIBLE_DEVICES"] for is_coco, item in order if not is_coco} <= {
        "0,1",
        "1,0",
    }


def test_finished_cells_are_not_run_again(bench):
    bench.run(**MATRIX)
    before = len(bench.calls())
    outcomes = bench.run(**MATRIX)
    assert set(statuses(outcomes).values()) == {"reused"}
    assert len(bench.calls()) == before


def test_a_changed_config_reruns_what_depends_on_it_and_nothing_else(bench):
    bench.run(**MATRIX)
    path = bench.root / "pretrain/configs/mls_quick.yaml"
    path.write_text(path.read_text() + "MLS:\n  K: 7\n")

    module._decisive.cache_clear()  # as in a new process
    outcomes = statuses(bench.run(**MATRIX))
    again = {name for name, status in outcomes.items() if status == "finished"}
    assert again == {name for name in outcomes if "/mls-" in name}
    path.write_text(path.read_text().replace("K: 7", "K: 20"))  # the default
    module._decisive.cache_clear()
    assert set(statuses(bench.run(**MATRIX)).values()) == {"reused"}


def test_other_weights_of_the_same_config_rerun_the_transfer(bench):
    first = bench.run()
    (first["pretrain/mls-seed0"].folder / "backbone.pth").write_text("others")
    second = bench.run()
    assert statuses(second) == {
        "pretrain/mls-seed0": "reused",
        "coco/random-seed0": "reused",
        "coco/mls-seed0": "finished",
    }
    assert second["coco/mls-seed0"].folder != first["coco/mls-seed0"].folder


def test_an_output_that_is_gone_is_made_again(bench):
    first = bench.run()
    (first["coco/random-seed0"].folder / "results.json").unlink()
    assert statuses(bench.run())["coco/random-seed0"] == "finished"


def test_a_failure_stops_only_what_needs_it_and_is_tried_again(bench):
    bench.control([["mocov2_quick"], "fail"])
    outcomes = bench.run(**MATRIX)
    failed = outcomes["pretrain/mocov2-seed0"]
    assert failed.status == "failed"
    assert failed.message == "exit code 2, error: no such thing"
    assert failed.log[-2:] == ("first line", "error: no such thing")
    for name, outcome in outcomes.items():
        if "mocov2" not in name:
            assert outcome.status == "finished", name
        elif name != "pretrain/mocov2-seed0":
            assert outcome.status == "skipped"
            assert outcome.message == "needs pretrain/mocov2-seed0, which is failed"
    bench.control()
    assert statuses(bench.run(**MATRIX))["pretrain/mocov2-seed0"] == "finished"


def test_a_killed_tool_is_named_with_its_signal(bench):
    bench.control([["train_net", "random"], "kill"])
    outcomes = bench.run()
    assert outcomes["coco/random-seed0"].status == "failed"
    assert "killed by SIGKILL" in outcomes["coco/random-seed0"].message
    assert outcomes["coco/random-seed0"].log[-1] == "7/10 loss 1.0"
    assert outcomes["coco/mls-seed0"].status == "finished"


def test_a_tool_that_writes_nothing_has_failed(bench):
    bench.control([["pretrain"], "nothing"])
    outcomes = bench.run()
    assert outcomes["pretrain/mls-seed0"].message.endswith("wrote no backbone.pth")
    assert outcomes["coco/mls-seed0"].status == "skipped"


def test_a_full_disk_in_one_cell_leaves_the_others(bench, monkeypatch):
    write = Store.write

    def full(self, place, record):
        if record.name == "coco/random-seed0" and record.status == "finished":
            raise UserError("cannot write: No space left on device")
        write(self, place, record)

    monkeypatch.setattr(Store, "write", full)
    outcomes = bench.run()
    assert outcomes["coco/random-seed0"].status == "failed"
    assert "No space left" in outcomes["coco/random-seed0"].message
    assert outcomes["coco/mls-seed0"].status == "finished"
    monkeypatch.undo()


def test_a_folder_that_cannot_be_made_is_that_cells_failure(bench):
    (cell,) = plan_cells(bench.suite(methods=["random"]), gpus=False)
    folder = Store(bench.out).place(cell).folder
    folder.parent.mkdir(parents=True)
    folder.touch()
    outcomes = bench.run()
    assert outcomes["coco/random-seed0"].status == "failed"
    assert "cannot write to" in outcomes["coco/random-seed0"].message
    assert outcomes["coco/mls-seed0"].status == "finished"


def test_ctrl_c_lets_the_tools_write_checkpoints_and_the_next_run_goes_on(bench):
    bench.control([["mask_rcnn", "random"], "wait"])

    def stop_when_started(outcomes, running):
        finished = {cell.name for cell in outcomes}
        if list(bench.out.rglob("started")) and "pretrain/mls-seed0" in finished:
            os.kill(os.getpid(), signal.SIGINT)

    seeds = {"seeds": [0], "tasks": ["coco", "voc"]}
    outcomes = bench.run(jobs=2, watch=stop_when_started, **seeds)
    stopped = outcomes["coco/random-seed0"]
    assert stopped.status == "interrupted"
    assert (stopped.folder / "checkpoint").exists()
    assert records(bench)["coco/random-seed0"]["status"] == "interrupted"
    assert outcomes["voc/mls-seed0"].status == "not run"
    again = bench.run(**seeds)
    assert {outcome.status for outcome in again.values()} == {"finished", "reused"}
    assert again["coco/random-seed0"].folder == stopped.folder
    assert again["coco/random-seed0"].status == "finished"


def test_a_tool_outlives_a_killed_runner_and_is_not_started_twice(bench):
    bench.control([["train_net"], "slow"])
    (cell,) = plan_cells(bench.suite(methods=["random"]), gpus=False)
    store = Store(bench.out)
    place = store.place(cell)
    handle = store.lock(place)
    # A process of another run, which inherits the lock from a runner that is gone.
    other = subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=(handle,),
    )
    os.close(handle)
    assert store.is_locked(place)
    done = {}
    thread = threading.Thread(target=lambda: done.update(run_cells(bench, [cell], Pool([], 1))))
    thread.start()
    time.sleep(0.5)
    assert bench.calls() == []
    other.communicate()
    thread.join(30)
    assert done["coco/random-seed0"].status == "finished"
    assert len(bench.calls()) == 1


def test_a_running_tool_holds_the_lock_of_its_folder_itself(bench):
    bench.control([["train_net"], "wait"])
    (cell,) = plan_cells(bench.suite(methods=["random"]), gpus=False)
    store = Store(bench.out)
    place = store.place(cell)
    lock = store.lock(place)
    job = Job(cell, place, store, tools=bench.tools, environment={}, lock=lock)
    os.close(lock)  # as if the runner had been killed
    job._lock = os.open(os.devnull, os.O_RDONLY)
    assert store.is_locked(place)
    while not (place.folder / "started").exists():
        time.sleep(0.01)
    job.tell(signal.SIGTERM)
    while job.poll() is None:
        time.sleep(0.01)
    assert not store.is_locked(place)


def test_two_rows_of_one_content_share_their_cells(bench):
    outcomes = bench.run(methods=["mls", {"name": "again", "method": "mls"}])
    assert len(bench.calls()) == 2
    assert outcomes["coco/again-seed0"].folder == outcomes["coco/mls-seed0"].folder


def test_the_time_of_an_attempt_that_nobody_measured_is_no_estimate(bench):
    (cell,) = plan_cells(bench.suite(methods=["random"]), gpus=False)
    bench.run(methods=["random"])
    store = Store(bench.out)
    assert list(store.durations()) == [cell.family]
    place = store.place(cell)
    record = json.loads((place.folder / RECORD_FILE).read_text())
    (place.folder / RECORD_FILE).write_text(json.dumps(record | {"status": "running"}))
    bench.run(methods=["random"])
    assert store.record(place).status == "finished"
    assert store.durations() == {}


def test_gpus_are_shared_out_and_given_back():
    pool = Pool(["2", "5", "7"], None)
    assert pool.jobs == 3
    two = pool.take(2)
    assert two["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert pool.take(2) is None
    assert pool.take(1)["CUDA_VISIBLE_DEVICES"] == "7"
    pool.give_back(two)
    assert pool.take(2)["CUDA_VISIBLE_DEVICES"] == "2,5"
    with pytest.raises(UserError, match="it needs 4 GPUs, and this machine has 3"):
        pool.take(4)


def test_jobs_must_be_positive():
    with pytest.raises(UserError, match="--jobs must be 1 or more, got 0"):
        Pool([], 0)


def test_a_lock_is_held_once(bench):
    (cell,) = plan_cells(bench.suite(methods=["random"]), gpus=False)
    store = Store(bench.out)
    place = store.place(cell)
    handle = store.lock(place)
    assert store.lock(place) is None
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
    assert not store.is_locked(place)
