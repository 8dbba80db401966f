"""Cells on this machine, with stubs in place of the tools."""

import json
import os
import signal
import subprocess
import sys

import torch

from mls_d2.checkpoint.backbone_file import write_backbone
from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import UserError
from mls_d2.runner import cells as cells_module
from mls_d2.runner.executors import Pool
from mls_d2.runner.store import RECORD_FILE, Store

MATRIX = {"methods": ["random", "mocov2", "mls"], "tasks": ["coco", "voc"], "seeds": [0, 1]}


def statuses(outcomes):
    return {name: outcome.status for name, outcome in outcomes.items()}


def record(bench, name):
    found = [json.loads(path.read_text()) for path in bench.out.rglob(RECORD_FILE)]
    return next(content for content in found if content["name"] == name)


def test_a_matrix_runs_in_order_once_and_only_what_changed_runs_again(bench):
    outcomes = bench.run(**MATRIX)
    assert set(statuses(outcomes).values()) == {"finished"}
    assert len(outcomes) == 2 + 3 * 2 * 2
    starts, ends = bench.calls(), bench.calls("end")
    assert sorted(call.words[0] for call in starts) == ["pretrain"] * 2 + ["train_net"] * 12
    for call in starts:
        weights = dict(zip(call.words, call.words[1:], strict=False)).get("MODEL.WEIGHTS", "random")
        if weights != "random":
            (made,) = [end for end in ends if end.words[-1] == os.path.dirname(weights)]
            assert made.time <= call.time
    assert set(statuses(bench.run(**MATRIX)).values()) == {"reused"}
    assert len(bench.calls()) == len(starts)

    path = bench.root / "pretrain/configs/mls_quick.yaml"
    path.write_text(path.read_text() + "MLS:\n  K: 7\n")
    cells_module._decisive.cache_clear()  # as in a new process
    changed = statuses(bench.run(**MATRIX))
    again = {name for name, status in changed.items() if status == "finished"}
    assert again == {name for name in changed if "/mls-" in name}
    path.write_text(path.read_text().replace("K: 7", "K: 20"))  # the default
    cells_module._decisive.cache_clear()
    assert set(statuses(bench.run(**MATRIX)).values()) == {"reused"}


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


def test_the_longest_start_first_among_those_that_nothing_waits_for(bench):
    voc = next(cell for cell in bench.cells(tasks=["voc"]) if cell.needs is None)
    coco = next(cell for cell in bench.cells(tasks=["coco"]) if cell.needs is None)
    bench.run(1, durations={voc.family: 100.0, coco.family: 1.0}, tasks=["coco", "voc"])
    order = [" ".join(call.words) for call in bench.calls()]
    assert "mls_quick" in order[0]
    assert ["faster" in line for line in order[1:]] == [True, True, False, False]


def test_unknown_lengths_are_learnt_first_and_then_the_longest_start(bench):
    bench.control([["faster"], "slow"])
    bench.run(1, methods=["random"], tasks=["coco", "voc"], seeds=[0, 1, 2])
    slow = ["faster" in " ".join(call.words) for call in bench.calls()]
    assert slow == [False, True, True, True, False, False]


def test_a_cell_that_needs_all_gpus_is_not_overtaken_for_ever(bench):
    bench.control([["coco"], "slow"])
    tasks = [{"task": "coco", "num_gpus": 1}, {"task": "voc", "num_gpus": 2}]
    first, *others = bench.cells(gpus=True, methods=["random"], tasks=tasks, seeds=[0, 1, 2])
    cells = [first, *sorted(others, key=lambda cell: -cell.num_gpus)]
    durations = {cell.family: 9.0 for cell in cells}  # equal: they start in the order of the list
    bench.run(cells=cells, pool=Pool(["0", "1"], None), durations=durations)
    order = [("mask" in " ".join(call.words), call.environment) for call in bench.calls()]
    assert [is_coco for is_coco, _ in order] == [True, False, False, False, True, True]
    used = {item["CUDA_VISIBLE_DEVICES"] for is_coco, item in order if not is_coco}
    assert used <= {"0,1", "1,0"}


def test_gpus_are_shared_out_and_given_back(refuses):
    pool = Pool(["2", "5", "7"], None)
    assert pool.jobs == 3
    two = pool.take(2)
    assert two["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert pool.take(2) is None
    assert pool.take(1)["CUDA_VISIBLE_DEVICES"] == "7"
    pool.give_back(two)
    assert pool.take(2)["CUDA_VISIBLE_DEVICES"] == "2,5"
    with refuses("bad-value"):
        pool.take(4)
    with refuses("bad-value"):
        Pool([], 0)


def test_other_weights_or_a_missing_output_of_the_same_config_run_again(bench):
    first = bench.run()
    (first["pretrain/mls-seed0"].folder / "backbone.pth").write_text("others")
    (first["coco/random-seed0"].folder / "results.json").unlink()
    second = bench.run()
    assert statuses(second) == {
        "pretrain/mls-seed0": "reused",
        "coco/random-seed0": "finished",
        "coco/mls-seed0": "finished",
    }
    assert second["coco/mls-seed0"].folder != first["coco/mls-seed0"].folder


def test_a_backbone_file_shares_the_cells_of_the_pretraining_that_wrote_it(bench, monkeypatch):
    first = bench.run(methods=["mls"])
    made = first["pretrain/mls-seed0"].folder / "backbone.pth"
    # The stub's file is text.
    monkeypatch.setattr("mls_d2.runner.tool_process.read_backbone", lambda path: None)
    given = bench.run(methods=[{"name": "given", "backbone": str(made)}])
    assert statuses(given) == {"coco/given-seed0": "reused"}
    assert given["coco/given-seed0"].folder == first["coco/mls-seed0"].folder


def test_a_failure_stops_only_what_needs_it_and_is_tried_again(bench):
    bench.control([["mocov2_quick"], "fail"], [["train_net", "voc", "random"], "kill"])
    outcomes = bench.run(**MATRIX | {"seeds": [0]})
    failed = outcomes["pretrain/mocov2-seed0"]
    assert (failed.status, failed.message) == ("failed", "exit code 2, error: no such thing")
    assert failed.log[-2:] == ("first line", "error: no such thing")
    for task in ("coco", "voc"):
        assert outcomes[f"{task}/mls-seed0"].status == "finished"
        skipped = outcomes[f"{task}/mocov2-seed0"]
        assert (skipped.status, "pretrain/mocov2-seed0" in skipped.message) == ("skipped", True)
    killed = outcomes["voc/random-seed0"]
    assert "killed by SIGKILL" in killed.message
    assert killed.log[-1] == "7/10 loss 1.0"
    bench.control([["voc"], "nothing"])
    again = bench.run(**MATRIX | {"seeds": [0]})
    assert again["pretrain/mocov2-seed0"].status == "finished"
    assert again["voc/random-seed0"].message.endswith("wrote no results.json")


def test_a_full_disk_in_one_cell_leaves_the_others(bench, monkeypatch):
    write = Store.write

    def full(self, place, record):
        if record.name == "coco/random-seed0" and record.status == "finished":
            raise UserError("cannot write: No space left on device")
        write(self, place, record)

    monkeypatch.setattr(Store, "write", full)
    folder = next(Store(bench.out).place(cell) for cell in bench.cells(tasks=["voc"])).folder
    folder.parent.mkdir(parents=True)
    folder.touch()  # where the cell has to make its folder
    outcomes = bench.run(tasks=["coco", "voc"])
    assert outcomes["coco/random-seed0"].status == "failed"
    assert "No space left" in outcomes["coco/random-seed0"].message
    assert "cannot write to" in outcomes["voc/random-seed0"].message
    assert outcomes["coco/mls-seed0"].status == outcomes["voc/mls-seed0"].status == "finished"


def test_ctrl_c_lets_the_tools_write_checkpoints_and_the_next_run_resumes(bench):
    bench.control([["mask_rcnn", "random"], "wait"])

    def stop_when_started(outcomes, running):
        finished = {cell.name for cell in outcomes}
        if list(bench.out.rglob("started")) and "pretrain/mls-seed0" in finished:
            os.kill(os.getpid(), signal.SIGINT)

    tasks = {"tasks": ["coco", "voc"]}
    outcomes = bench.run(jobs=2, watch=stop_when_started, **tasks)
    stopped = outcomes["coco/random-seed0"]
    assert stopped.status == record(bench, "coco/random-seed0")["status"] == "interrupted"
    assert (stopped.folder / "checkpoint").exists()
    assert outcomes["voc/mls-seed0"].status == "not run"
    again = bench.run(**tasks)
    assert set(statuses(again).values()) == {"finished", "reused"}
    assert again["coco/random-seed0"].folder == stopped.folder


def test_a_second_ctrl_c_kills_the_tools(bench, monkeypatch):
    monkeypatch.setattr("mls_d2.runner.executors._REPEAT_S", 0.0)
    bench.control([["random"], "stubborn"])

    def insist(outcomes, running):
        if list(bench.out.rglob("started")):
            os.kill(os.getpid(), signal.SIGINT)

    outcome = bench.run(methods=["random"], watch=insist)["coco/random-seed0"]
    assert outcome.status == "interrupted"
    assert outcome.seconds < 30


def test_a_tool_outlives_a_killed_runner_and_is_not_started_twice(bench):
    (cell,) = bench.cells(methods=["random"])
    store = Store(bench.out)
    place = store.place(cell)
    handle = store.lock(place)
    assert store.lock(place) is None
    # A process of another run, which inherits the lock from a runner that is gone.
    other = subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=(handle,),
    )
    os.close(handle)
    assert store.is_locked(place)
    watched = []

    def end_the_other(outcomes, running):
        watched.append(len(bench.calls()))
        if len(watched) == 5:
            other.communicate()

    outcomes = bench.run(cells=[cell], watch=end_the_other)
    assert watched[:5] == [0] * 5
    assert outcomes["coco/random-seed0"].status == "finished"
    assert len(bench.calls()) == 1
    assert not store.is_locked(place)


def test_a_running_tool_holds_the_lock_of_its_folder_itself(bench):
    bench.control([["train_net"], "wait"])
    locks = []

    def watch(outcomes, running):
        if running and (running[0].place.folder / "started").exists() and not locks:
            held = os.popen(f"ls -l /proc/{running[0]._process.pid}/fd").read()
            locks.append("cell.lock" in held)
            running[0].stop(signal.SIGTERM)

    outcomes = bench.run(methods=["random"], watch=watch)
    assert locks == [True]
    assert statuses(outcomes) == {"coco/random-seed0": "interrupted"}


def test_two_methods_of_one_content_share_their_cells(bench):
    outcomes = bench.run(methods=["mls", {"name": "again", "method": "mls"}])
    assert len(bench.calls()) == 2
    assert outcomes["coco/again-seed0"].folder == outcomes["coco/mls-seed0"].folder


def test_records_of_another_key_of_an_unknown_time_or_damaged_do_not_count(bench):
    (cell,) = bench.cells(methods=["random"])
    bench.run(methods=["random"])
    store = Store(bench.out)
    assert list(store.durations()) == [cell.family]
    path = store.place(cell).folder / RECORD_FILE
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"status": "running"}))  # killed with its runner
    bench.run(methods=["random"])
    assert store.is_finished(cell, store.place(cell))
    assert store.durations() == {}
    # The name of a folder has only the first letters of the key.
    path.write_text(json.dumps(content | {"key": f"{content['key'][:-1]}x"}))
    assert store.record(store.place(cell)) is None
    for damage in (b'{"key": "\xff"}', b'{"x": ' + b"[" * 100_000, b""):
        path.write_bytes(damage)
        assert store.record(store.place(cell)) is None
    assert statuses(bench.run(methods=["random"])) == {"coco/random-seed0": "finished"}


def test_the_command_lines_of_a_pretraining_and_a_transfer(bench):
    content = {
        "methods": [{"name": "k7", "method": "mls", "opts": {"MLS.K": 7}}],
        "tasks": [{"task": "coco", "opts": {"SOLVER.MAX_ITER": 3}}],
        "seeds": [4],
        "num_gpus": 2,
    }
    cells = bench.cells(gpus=True, **content)
    outcomes = bench.run(cells=cells, pool=Pool(["0", "1"], None))
    pretrain, transfer = (call.words for call in bench.calls())
    config = str(bench.root / "pretrain/configs/mls_quick.yaml")
    folder = str(outcomes["pretrain/k7-seed0"].folder)
    assert pretrain == [
        *("pretrain", "--config-file", config, "--resume", "--num-gpus", "2"),
        *("MLS.K", "7", "SEED", "0", "OUTPUT_DIR", folder),
    ]
    assert transfer[-8:] == [
        *("SOLVER.MAX_ITER", "3", "SEED", "4", "MODEL.WEIGHTS", f"{folder}/backbone.pth"),
        *("OUTPUT_DIR", str(outcomes["coco/k7-seed4"].folder)),
    ]


def test_converted_weights_come_with_the_config_that_they_need(bench, tmp_path):
    sizes = {"depth": 50, "stem_out_channels": 16, "res2_out_channels": 64, "num_groups": 1}
    info = {
        "architecture": sizes | {"width_per_group": 16, "stride_in_1x1": True},
        "pixel_mean": [103.5, 116.3, 123.7],
        "pixel_std": [1.0, 1.0, 1.0],
        "input_format": "BGR",
    }
    given = tmp_path / "given.pth"
    write_backbone(str(given), {"stem.conv1.weight": torch.zeros(16, 3, 7, 7)}, info)
    own = tmp_path / "own.pth"
    write_backbone(str(own), {"stem.conv1.weight": torch.ones(16, 3, 7, 7)}, info)
    needs = {"needs": "a ResNet-50", "dataset": ["imagenet", "extra"], "epochs": 90}
    methods = [{"name": "supervised", **needs}, {"name": "as-it-is", "backbone": str(own)}]
    outcomes = bench.run(methods=methods, checkpoints={"supervised": given})
    assert set(statuses(outcomes).values()) == {"finished"}
    (convert,) = [call.words for call in bench.calls() if call.words[0] == "convert"]
    weights = str(outcomes["convert/supervised"].folder / "backbone.pth")
    assert convert == [
        *("convert", str(given), weights, "--force", "--method", "supervised"),
        *("--dataset", "imagenet", "extra", "--epochs", "90"),
    ]
    transfers = [call.words for call in bench.calls() if "MODEL.PIXEL_STD" in call.words]
    assert len(transfers) == 2
    for words in transfers:
        opts = words[words.index("SEED") :]
        cfg = load_cfg(words[words.index("--config-file") + 1], opts)
        assert cfg.MODEL.WEIGHTS in (weights, str(own))
        assert cfg.INPUT.FORMAT == "BGR"
        assert cfg.MODEL.PIXEL_MEAN == [103.5, 116.3, 123.7]
        assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is True
        assert cfg.MODEL.RESNETS.WIDTH_PER_GROUP == 16
