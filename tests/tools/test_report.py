import functools
import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tools.report import main as run

TOOL = Path(__file__).parents[2] / "tools" / "report.py"


@pytest.fixture
def results(tmp_path):
    """A folder with one result of schema version 1, as docs/results.md describes it."""
    fields = {
        "schema": 1,
        "method": "random",
        "backbone": {"file": "random", "sha256": "", "info": {}},
        "task": "coco_mask_rcnn_fpn",
        "preset": "quick",
        "metrics": {"bbox": {"AP": 12.5}},
        "seed": 0,
        "dataset": {
            "name": "coco_2017_val",
            "root": "datasets/scenes",
            "num_images": 3,
            "synthetic": True,
            "fingerprint": "f00d",
        },
        "config": "SOLVER: {MAX_ITER: 3}",
        "versions": {},
        "wall_time_s": 1.0,
        "peak_memory_mb": None,
        "images_per_s": None,
        "finished": "2025-01-01T00:00:00Z",
        "command": "tools/train_net.py",
    }
    (tmp_path / "quick" / "run").mkdir(parents=True)
    (tmp_path / "quick" / "run" / "results.json").write_text(json.dumps(fields))
    return tmp_path / "quick"


BLOCKED = """
import runpy, sys
class Blocker:
    def find_spec(name, *_):
        if name.partition(".")[0] in ("torch", "torchvision", "detectron2"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_report_is_written_and_summed_up_without_torch_and_detectron2(results):
    command = [sys.executable, "-c", BLOCKED, str(TOOL), str(results)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert lines[-1] == f"report: {results / 'report' / 'report.html'}"
    assert any(line.split()[:3] == ["random", "1", "12.50"] for line in lines)
    written = {path.name for path in (results / "report").iterdir()}
    assert written == {"report.html", "report.md", "results.csv", "results.tex", "curves.svg"}


def test_a_document_is_updated_and_options_reach_the_report(results, tmp_path, capsys):
    document = tmp_path / "README.md"
    document.write_text("a\n<!-- report:begin results -->\n<!-- report:end results -->\nb\n")
    own = tmp_path / "own.yaml"
    own.write_text("source: Own\ntables: []\n")
    run([str(results), "--mix", "--published", str(own), "--update", str(document)])
    assert capsys.readouterr().out.startswith(f"updated {document}: results\n")
    assert "| random | 1 | 12.50 |" in document.read_text()


def test_a_summary_is_printed_and_nothing_written(results, tmp_path, capsys):
    own = tmp_path / "own.yaml"
    own.write_text("source: Own\ntables: []\n")
    run([str(results), "--summary", "--published", str(own)])
    text = capsys.readouterr().out
    assert "coco_mask_rcnn_fpn, preset quick, synthetic scenes, random, seed 0" in text
    assert "no published number: shortened schedule, synthetic scenes" in text
    assert [path.name for path in results.iterdir()] == ["run"]
    with pytest.raises(SystemExit):
        run([str(results), "--summary", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("options", "code", "name"),
    [
        (["--published", "missing.yaml"], "missing-file", "missing.yaml"),
        (["--baseline", "rando"], "unknown-name", "did you mean 'random"),
        (["--update", "missing.md"], "missing-file", "missing.md"),
    ],
)
def test_wrong_options_are_refused(results, refuses, options, code, name):
    with refuses(code, name):
        run([str(results), *options])


def test_runs_are_served_without_torch_and_detectron2_until_ctrl_c(results):
    command = [sys.executable, "-u", "-c", BLOCKED, str(TOOL), str(results), "--serve", "0"]
    # A process in the background of a script is started with Ctrl-C ignored.
    notice = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, preexec_fn=notice) as server:
        try:
            line = server.stdout.readline().decode()
            with urllib.request.urlopen(line.split()[0], timeout=60) as answer:
                assert b">12.50<" in answer.read()
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 130
        assert server.stderr.read() == b"interrupted\n"
    assert not (results / "report").exists()


@pytest.mark.parametrize("options", [["--serve", "65536"], ["--serve", "folder"]])
def test_a_bad_port_is_refused(results, options, capsys):
    with pytest.raises(SystemExit):
        run([str(results), *options])
    assert "folders come before --serve" in capsys.readouterr().err


def test_serving_writes_nothing(results, capsys):
    with pytest.raises(SystemExit):
        run([str(results), "--serve", "--summary"])
    assert "leave --summary and --update out" in capsys.readouterr().err
