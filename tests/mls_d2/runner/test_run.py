"""A whole benchmark: plan, run, summary, links, report and exit code."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mls_d2.core.errors import UserError
from mls_d2.runner import run as module
from mls_d2.runner.run import EXIT_FAILED_CELLS, Options, check_data, locked, run_benchmark
from mls_d2.scenes.marker import SceneParams, write_marker

REPOSITORY = Path(__file__).resolve().parents[3]
MATRIX = {"tasks": ["coco", "voc"], "name": "small"}


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch):
    monkeypatch.setattr(module, "visible_gpus", list)


def run(bench, *, dry_run=False, update=None, **content):
    options = Options(bench.out, dry_run=dry_run, jobs=2, update=update)
    return run_benchmark(bench.suite(**{**MATRIX, **content}), options, bench.tools)


def test_all_is_run_linked_and_reported(bench, capfd):
    assert run(bench, update=Path("README.md")) == 0
    out, err = capfd.readouterr()
    folder = bench.out / "small"
    assert "suite 'small': 5 finished" in out
    assert (folder / "summary.txt").read_text() in out
    assert "[5/5]" in err
    links = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*"))
    assert links == [
        "coco/mls-seed0",
        "coco/random-seed0",
        "pretrain/mls-seed0",
        "voc/mls-seed0",
        "voc/random-seed0",
    ]
    assert (folder / "coco/mls-seed0/results.json").is_file()
    report = bench.calls()[-1].words
    given = {os.path.relpath(word, folder) for word in report[1 : report.index("--out")]}
    assert given == set(links)
    assert report[-4:] == ["--out", str(folder / "report"), "--update", "README.md"]
    state = json.loads((folder / "cells.json").read_text())
    assert state["voc/mls-seed0"]["status"] == "finished"


def test_a_report_is_of_its_suite_alone(bench):
    run(bench)
    run(bench, tasks=["voc"], methods=["random"])
    report = bench.calls()[-1].words
    assert [Path(word).name for word in report[1 : report.index("--out")]] == ["random-seed0"]
    assert [path.name for path in (bench.out / "small").glob("*/*")] == ["random-seed0"]


def is_locked(folder):
    with (folder / "suite.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_links_and_report_are_made_under_one_lock(bench, monkeypatch):
    held = []

    def noting(function):
        def call(*arguments):
            held.append((function.__name__, is_locked(bench.out / "small")))
            return function(*arguments)

        return call

    for name in ("link_cells", "_report"):
        monkeypatch.setattr(module, name, noting(getattr(module, name)))
    assert run(bench, methods=["random"]) == 0
    assert held == [("link_cells", True), ("_report", True)]
    assert not is_locked(bench.out / "small")


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


def test_links_that_are_gone_or_in_the_way_are_no_traceback(bench, monkeypatch):
    assert run(bench, methods=["random"]) == 0
    is_symlink = Path.is_symlink

    def taken_away(path):
        found = is_symlink(path)
        if found:
            os.unlink(path)
        return found

    monkeypatch.setattr(Path, "is_symlink", taken_away)
    assert run(bench, methods=["random"]) == 0
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    with pytest.raises(UserError, match="cannot renew the links in .*random-seed0': File exists"):
        run(bench, methods=["random"])


def test_a_failure_shows_in_summary_and_exit_code_and_the_rest_is_reported(bench, capfd):
    bench.control([["pretrain"], "fail"])
    assert run(bench) == EXIT_FAILED_CELLS
    out = capfd.readouterr().out
    assert "2 finished, 1 failed, 2 skipped" in out
    assert "pretrain/mls-seed0: exit code 2, error: no such thing" in out
    assert "\n    first line\n    error: no such thing" in out
    assert "coco/mls-seed0" in out
    assert "needs pretrain/mls-seed0, which is failed" in out
    assert len([word for word in bench.calls()[-1].words if "random-seed0" in word]) == 2


def test_without_a_finished_evaluation_there_is_no_report(bench, capfd):
    bench.control([["train_net"], "fail"])
    assert run(bench) == EXIT_FAILED_CELLS
    assert "no report: no evaluation has finished" in capfd.readouterr().out
    assert "report" not in {call.words[0] for call in bench.calls()}


def test_the_reports_own_failure_is_the_exit_code(bench):
    bench.control([["report"], "2"])
    assert run(bench) == 2


def test_a_dry_run_shows_the_plan_and_changes_nothing(bench, capfd):
    assert run(bench, dry_run=True) == 0
    assert not bench.out.exists()
    out = capfd.readouterr().out
    assert "5 cells, 5 to do, 2 at a time: time unknown" in out
    assert lines(out)["coco/mls-seed0"] == ["after", "pretrain/mls-seed0", "unknown"]
    bench.control([["voc2007"], ""], [["faster", "random"], "fail"])
    run(bench)
    bench.control()
    capfd.readouterr()
    run(bench, dry_run=True, seeds=[0, 1])
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


def test_missing_data_and_scenes_for_the_paper_are_refused(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="there is no folder of datasets '.*nowhere'"):
        run(bench)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    write_marker(tmp_path / "datasets", SceneParams(), [], complete=True)
    suite = bench.suite()
    check_data(suite)
    with pytest.raises(UserError, match="generated scenes, and suite 'custom' is for the real"):
        check_data(type(suite)(**{**vars(suite), "preset": "paper"}))


PROGRAM = """
import sys
from pathlib import Path
from mls_d2.runner.cells import Tools
from mls_d2.runner.run import Options, run_benchmark
from mls_d2.runner.suite import build_suite
from mls_d2.core.errors import run_tool
root, out, stub, *methods = sys.argv[1:]
tools = Tools(*((sys.executable, "-S", stub, name)
                for name in ("pretrain", "convert", "train_net", "report")))
suite = build_suite({"methods": methods, "tasks": ["coco"]}, Path(root))
run_tool(lambda: run_benchmark(suite, Options(Path(out), jobs=2), tools))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_to_the_runner_stops_the_tools_in_order(bench, number, code):
    bench.control([["train_net"], "wait"])
    stub = bench.tools.report[2]
    words = [sys.executable, "-c", PROGRAM, str(bench.root), str(bench.out), stub]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [*words, "random"], env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 60
    while not list(bench.out.rglob("started")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == code, output
    assert "1 interrupted" in output
    assert "Traceback" not in output
    assert list(bench.out.rglob("checkpoint"))
