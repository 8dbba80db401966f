import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "report.py"


def run_tool(*arguments):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


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


def test_a_report_is_written_and_summed_up(results):
    done = run_tool(results)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert lines[-1] == f"report: {results / 'report' / 'report.html'}"
    assert any(line.split()[:3] == ["random", "1", "12.50"] for line in lines)
    written = {path.name for path in (results / "report").iterdir()}
    assert written == {"report.html", "report.md", "results.csv", "results.tex", "curves.svg"}


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_nothing_to_report_is_one_line_and_exit_code_2(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    done = run_tool(tmp_path / folder, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file_is_one_line_and_exit_code_2(results, tmp_path):
    (tmp_path / "file").write_text("")
    done = run_tool(results, "--out", tmp_path / "file")
    assert done.returncode == 2
    assert "error: cannot write to" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_document_is_updated_and_options_reach_the_report(results, tmp_path):
    document = tmp_path / "README.md"
    document.write_text("a\n<!-- report:begin results -->\n<!-- report:end results -->\nb\n")
    own = tmp_path / "own.yaml"
    own.write_text("source: Own\ntables: []\n")
    done = run_tool(results, "--mix", "--published", own, "--update", document)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"updated {document}: results\n")
    assert "| random | 1 | 12.50 |" in document.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--published", "missing.yaml"], "cannot read published numbers from 'missing.yaml'"),
        (
            ["--baseline", "rando"],
            "baseline 'rando' is not among the results; did you mean 'random",
        ),
        (["--update", "missing.md"], "cannot read 'missing.md'"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(results, options, message):
    done = run_tool(results, *options)
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr
    assert "Traceback" not in done.stderr
