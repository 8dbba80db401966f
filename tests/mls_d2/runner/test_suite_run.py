"""A whole suite: data, plan, run, summary, links, report and exit code."""

import fcntl
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from mls_d2.core.errors import Preempted
from mls_d2.runner import suite_run as module
from mls_d2.runner.suite_run import EXIT_FAILED_CELLS, Options, locked, provide_scenes, run_suite
from mls_d2.scenes import read_marker
from mls_d2.scenes.marker import SceneParams, write_marker

MATRIX = {"tasks": ["coco", "voc"], "name": "small"}


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch):
    monkeypatch.setattr(module, "visible_gpus", list)


def run(bench, *, options=None, **content):
    chosen = Options(bench.out, **{"jobs": 2} | (options or {}))
    return run_suite(bench.suite(**{**MATRIX, **content}), chosen, bench.tools)


def words_of_report(bench):
    words = bench.calls()[-1].words
    return {os.path.relpath(word, bench.out / "small") for word in words[1 : words.index("--out")]}


def test_all_is_run_linked_and_reported(bench, capfd):
    assert run(bench, options={"update": Path("README.md")}) == 0
    out, err = capfd.readouterr()
    folder = bench.out / "small"
    assert "suite 'small': 5 finished" in out
    assert (folder / "summary.txt").read_text() in out
    assert "[5/5]" in err
    links = {
        *("coco/mls-seed0", "coco/random-seed0", "pretrain/mls-seed0"),
        *("voc/mls-seed0", "voc/random-seed0"),
    }
    assert {str(path.relative_to(folder)) for path in folder.glob("*/*")} == links
    assert (folder / "coco/mls-seed0/results.json").is_file()
    assert words_of_report(bench) == links
    assert bench.calls()[-1].words[-4:] == [
        *("--out", str(folder / "report"), "--update", "README.md"),
    ]
    state = json.loads((folder / "cells.json").read_text())
    assert state["voc/mls-seed0"]["status"] == "finished"
    # A report is of its suite alone; links of earlier runs stay.
    assert run(bench, tasks=["voc"], methods=["random"]) == 0
    assert words_of_report(bench) == {"voc/random-seed0"}
    assert {str(path.relative_to(folder)) for path in folder.glob("*/*-seed*")} == links
    # Not if their cells are gone.
    state = json.loads((folder / "cells.json").read_text())
    os.rename(state["voc/random-seed0"]["folder"], bench.out / "moved")
    assert run(bench, tasks=["coco"], methods=["random"]) == 0
    left = {str(path.relative_to(folder)) for path in folder.glob("*/*-seed*")}
    assert left == links - {"voc/random-seed0"}


def test_an_evaluation_needs_a_finished_backbone_and_is_compared_with_the_paper(bench, refuses):
    only = {"options": {"evaluate_only": True, "report": False}}
    with refuses("missing-backbone", "pretrain/mls-seed0"):
        run(bench, **only)
    assert bench.calls() == []
    assert run(bench, tasks=[]) == 0
    assert [call.words[0] for call in bench.calls()] == ["pretrain"]
    assert run(bench, **only) == 0
    assert bench.calls()[-1].words[:2] == ["report", "--summary"]
    given = {Path(word).name for word in bench.calls()[-1].words[2:]}
    assert given == {"mls-seed0", "random-seed0"}


def test_the_data_of_tasks_are_checked_before_the_pretraining_that_they_wait_for(bench, refuses):
    bench.control([["--dry-run", "voc"], "refuse image 7\n  (error: 5) [odd]"])
    with refuses("odd", "task 'voc' ended with 1: image 7\n  (error: 5)"):
        run(bench)
    assert bench.calls() == []
    assert ["coco" in call.words[2] for call in bench.calls("check")] == [True, False]
    assert run(bench, methods=["random"]) == 0  # fails at its own start, with nothing lost
    assert len(bench.calls("check")) == 2


def test_links_and_report_are_made_under_one_lock(bench, monkeypatch):
    held = []

    def noting(function):
        def call(*arguments):
            with (bench.out / "small" / "suite.lock").open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    held.append(function.__name__)
            return function(*arguments)

        return call

    for name in ("link_cells", "_report"):
        monkeypatch.setattr(module, name, noting(getattr(module, name)))
    assert run(bench, methods=["random"]) == 0
    assert held == ["link_cells", "_report"]


def test_a_second_run_waits_for_the_links_and_report_of_the_first(tmp_path):
    ended = []

    def second():
        with locked(tmp_path):
            ended.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path):
        thread.start()
        thread.join(timeout=0.3)
        ended.append("first")
    thread.join()
    assert ended == ["first", "second"]


def test_links_that_are_in_the_way_are_no_traceback(bench, monkeypatch, refuses):
    assert run(bench, methods=["random"]) == 0
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    with refuses("no-space", "random-seed0"):
        run(bench, methods=["random"])


def test_a_failure_shows_in_summary_and_exit_code_and_the_rest_is_reported(bench, capfd):
    bench.control([["pretrain"], "fail"])
    assert run(bench) == EXIT_FAILED_CELLS
    out = capfd.readouterr().out
    assert "2 finished, 1 failed, 2 skipped" in out
    assert "pretrain/mls-seed0: exit code 2, error: no such thing" in out
    assert "\n    first line\n    error: no such thing" in out
    assert "needs pretrain/mls-seed0, which is failed" in out
    assert len([word for word in bench.calls()[-1].words if "random-seed0" in word]) == 2


def test_without_a_finished_evaluation_there_is_no_report(bench):
    bench.control([["train_net"], "fail"])
    assert run(bench) == EXIT_FAILED_CELLS
    assert "report" not in {call.words[0] for call in bench.calls()}
    bench.control([["report"], "2"])
    assert run(bench) == 2


def test_a_dry_run_shows_the_plan_and_changes_nothing(bench, capfd):
    assert run(bench, options={"jobs": 2, "dry_run": True}) == 0
    assert not bench.out.exists()
    out = capfd.readouterr().out
    assert "5 cells, 5 to do, 2 at a time: time unknown" in out
    assert lines(out)["coco/mls-seed0"] == ["after", "pretrain/mls-seed0", "unknown"]
    bench.control([["voc2007"], ""], [["faster", "random"], "fail"])
    run(bench)
    bench.control()
    capfd.readouterr()
    run(bench, options={"dry_run": True}, seeds=[0, 1])
    rows = lines(capfd.readouterr().out)
    assert rows["coco/mls-seed0"] == ["finished"]
    assert rows["voc/random-seed0"][:2] == ["failed,", "again"]
    assert rows["coco/mls-seed1"][0] == "new"
    # Seed 1 takes as long as seed 0 did.
    assert rows["coco/mls-seed1"][1].startswith("0:00:0")


def lines(text):
    rows = (line.split() for line in text.splitlines() if line.startswith("  "))
    return {name: rest for name, *rest in rows}


def test_rows_without_their_file_are_named(bench, capfd):
    methods = ["random", {"name": "supervised", "needs": "a ResNet-50"}]
    assert run(bench, methods=methods) == 0
    expected = "left out: supervised needs a ResNet-50; give it with --checkpoint supervised=FILE"
    assert capfd.readouterr().out.count(expected) == 2


def test_published_recipes_need_real_data_and_a_gpu(bench, monkeypatch, tmp_path, refuses):
    for name in ("coco/mask_rcnn_R_50_FPN_1x", "voc/faster_rcnn_R_50_C4_24k"):
        (bench.root / "transfer_configs" / f"{name}.yaml").write_text("SOLVER:\n  MAX_ITER: 7\n")
    paper = {"preset": "paper", "methods": ["random"], "tasks": ["coco"]}
    with refuses("no-gpu"):
        run(bench, **paper)
    assert run(bench, options={"dry_run": True}, **paper) == 0
    on_cpu = paper | {"tasks": [{"task": "coco", "opts": {"MODEL.DEVICE": "cpu"}}]}
    assert run(bench, **on_cpu) == 0
    monkeypatch.setattr(module, "visible_gpus", lambda: ["0"])
    assert run(bench, **paper) == 0  # it is finished
    write_marker(tmp_path / "datasets", SceneParams(), [], complete=True)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    with refuses("missing-data"):
        run(bench, **paper)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    with refuses("missing-data", "nowhere"):
        run(bench, **paper)


def test_scenes_are_generated_for_the_tasks_that_read_them(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_IMAGES", {"voc": 4, "cityscapes": 2})
    root = tmp_path / "scenes"
    calls = []

    def generate(root, **parameters):
        calls.append(parameters)
        before = read_marker(root) or {}
        counts = {name: value or before.get(name, 0) for name, value in parameters.items()}
        root.mkdir(exist_ok=True)
        write_marker(root, SceneParams(**counts), [], complete=True)

    monkeypatch.setattr(module, "generate", generate)
    provide_scenes(root, {"coco", "voc"})
    provide_scenes(root, {"coco", "voc"})
    assert calls == [{"voc": 4}]
    provide_scenes(root, {"cityscapes"})
    kept = {"train": 0, "val": 0, "unlabeled": 0}
    assert calls[1:] == [{"seed": 0, "size": (128, 128), **kept, "cityscapes": 2}]
    (tmp_path / "real" / "coco").mkdir(parents=True)
    provide_scenes(tmp_path / "real", {"voc"})
    assert len(calls) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_tools_in_order_and_ends_the_runner(bench, number, monkeypatch, capfd):
    bench.control([["train_net"], "wait"])

    class Stopping(module.Display):
        def __call__(self, outcomes, running):
            super().__call__(outcomes, running)
            if list(bench.out.rglob("started")):
                os.kill(os.getpid(), number)

    monkeypatch.setattr(module, "Display", Stopping)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(bench, methods=["random"], tasks=["coco"])
    assert isinstance(caught.value, Preempted) == (number == signal.SIGTERM)
    assert "1 interrupted" in capfd.readouterr().out
    assert list(bench.out.rglob("checkpoint"))
    assert "report" not in {call.words[0] for call in bench.calls()}
