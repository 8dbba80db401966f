"""tools/benchmark.py: its command line, and one matrix from pretraining to the report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mls_d2.run.cost import RunCost
from tests.conftest import REPOSITORY
from tests.mls_d2.conftest import DETECTOR, NETWORK

TOOL = REPOSITORY / "tools" / "benchmark.py"
# Seconds instead of minutes.
PRETRAIN = NETWORK | {
    "SOLVER.IMS_PER_BATCH": 8,
    "MOCO.DICTIONARY_SIZE": 32,
    "PRETRAIN.EPOCHS": 2.0,
    "PRETRAIN.WARMUP_EPOCHS": 0.0,
    "MLS.WARMUP": 0.0,
    "PRETRAIN.AUGMENT.CROP_SIZE": 32,
}
DETECTION = DETECTOR | {
    "SOLVER.MAX_ITER": 20,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.STEPS": "()",
}


@pytest.fixture
def tool(load_tool, monkeypatch, tmp_path):
    (tmp_path / "data" / "coco").mkdir(parents=True)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.chdir(tmp_path)
    return load_tool("benchmark")


ONE = ("--methods", "mls", "--tasks", "coco")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("none.yaml",), "missing-file"),
        (("paper_table9",), "missing-file"),
        (("--tasks", "coco"), "bad-suite"),
        (("--methods", "mls"), "bad-value"),
        (("--methods", "mlss", "--tasks", "coco"), "unknown-name"),
        (("--methods", "mls", "--tasks", "coc"), "unknown-name"),
        (("--methods", "random", "--only", "pretrain"), "unknown-name"),
        ((*ONE, "--seeds", "1;2"), "bad-value"),
        ((*ONE, "--preset", "papr"), "bad-suite"),
        ((*ONE, "--checkpoint", "a"), "bad-value"),
        ((*ONE, "--checkpoint", "a=b"), "missing-file"),
        ((*ONE, "--backbone", "b.pth"), "missing-file"),
        ((*ONE, "--jobs", "0"), "bad-value"),
        ((*ONE, "--num-gpus", "0"), "bad-suite"),
        ((*ONE, "--only", "eval"), "missing-backbone"),
        ((*ONE, "SOLVER.BASE_LR"), "bad-value"),
    ],
)
def test_mistakes_of_the_command_line(tool, words, code, refuses):
    with refuses(code):
        tool.main(list(words))


@pytest.mark.parametrize(
    ("words", "name", "cells"),
    [
        (["SUITE"], "paper_table8", 8),
        (["paper_table8"], "paper_table8", 8),
        (["paper_table8", "SEED", "1"], "paper_table8", 8),
        (["SUITE", "--methods", "mls", "--seeds", "0,1"], "custom", 3),
        (["--tasks", "all", "--methods", "mls random"], "quick", 1 + 2 * 9),
        (["--only", "pretrain", "--methods", "mls", "MLS.K", "7"], "quick", 1),
        (["--tasks", "voc", "--backbone", "random", "--preset", "paper"], "paper", 3),
        (["--tasks", "cityscapes", "--methods", "random", "--preset", "paper"], "paper", 4),
    ],
)
def test_the_plan_of_a_command_line(tool, capsys, monkeypatch, words, name, cells):
    monkeypatch.setattr(tool, "cost_of", lambda cell: RunCost(None, 0, 1, 0))
    suite = str(REPOSITORY / "suites/paper_table8.yaml")
    assert tool.main([suite if word == "SUITE" else word for word in words] + ["--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"suite '{name}', preset ")
    assert f": {cells} cells, {cells} to do" in out
    assert not Path("output").exists()


@pytest.mark.parametrize(
    ("words", "row"),
    [
        pytest.param(
            ("--methods", "mls", "--num-gpus", "8"),
            "pretrain/mls-seed0 1 8 32.5 3.6 ",
            marks=pytest.mark.full,
        ),
        (("--backbone", "random"), "voc2007-linear/random-seed0 3 1 8."),
    ],
)
def test_the_plan_counts_the_cost_without_data_and_for_the_gpus_of_the_recipe(
    tool, monkeypatch, capsys, words, row
):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    words += ("--preset", "paper", "--tasks", "voc2007-linear", "--seeds", "0,1,2", "--dry-run")
    assert tool.main(list(words)) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith(row) for line in rows)


@pytest.mark.full
def test_the_cost_of_table_1_is_the_documented_one(tool, capsys):
    tool.main([str(REPOSITORY / "suites/paper_table1.yaml"), "--dry-run", "--out", "/nowhere"])
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("estimated"))
    assert "\n".join(lines[start:]) in (REPOSITORY / "docs/running.md").read_text()


def suite_of(tool, *words):
    return tool.suite_of(tool.parse_args(words))


def test_what_options_select(tool, tmp_path):
    suite = suite_of(tool, *ONE, "--preset", "paper", "--epochs", "800", "--seed", "3")
    assert [item.name for item in suite.methods] == ["mls-800ep"]
    assert (suite.pretrain_seed, suite.seeds) == (3, (3,))
    suite = suite_of(tool, "SOLVER.BASE_LR", "1", *ONE, "--seed", "3", "--seeds", "0,1")
    assert (suite.pretrain_seed, suite.seeds) == (3, (0, 1))
    assert suite.tasks[0].opts == {"SOLVER.BASE_LR": "1"}
    for folder, name in (("my run", "backbone"), ("x", "dino s8")):
        file = tmp_path / folder / f"{name}.pth"
        file.parent.mkdir()
        file.touch()
        (method,) = suite_of(tool, "--backbone", str(file), "--tasks", "coco").methods
        assert method.backbone == file
        assert method.name in ("my-run", "dino-s8")


@pytest.mark.full
def test_a_matrix_is_stopped_resumes_is_reported_and_is_not_repeated(tool, scenes_root, tmp_path):
    path = tmp_path / "tiny.yaml"
    content = {
        "methods": [{"name": "mls", "method": "mls", "opts": PRETRAIN}],
        "tasks": [{"task": "coco", "opts": DETECTION}],
        "seeds": [3],
    }
    path.write_text(yaml.safe_dump(content))
    out = tmp_path / "the output"
    # One thread per tool: threads that wait for each other crawl on a busy machine.
    cores = str(os.cpu_count())
    words = [str(path), "--jobs", cores, "--data", str(scenes_root), "--out", str(out)]
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    started = subprocess.Popen(
        [str(TOOL), *words], env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 300
    while not list(out.glob("cells/transfer-*/metrics.json")):
        assert started.poll() is None, started.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    output = started.communicate(timeout=120)[0]
    assert started.returncode == 130, output
    assert "Traceback" not in output

    assert tool.main(words) == 0
    state = json.loads((out / "tiny/cells.json").read_text())
    assert {name: cell["status"] for name, cell in state.items()} == {
        "pretrain/mls-seed0": "reused",
        "coco/mls-seed3": "finished",
    }
    assert "resumed" in (out / "tiny/coco/mls-seed3/output.txt").read_text()
    result = json.loads((out / "tiny/coco/mls-seed3/results.json").read_text())
    assert (result["method"], result["seed"]) == ("mls", 3)
    assert (out / "tiny/report/report.md").is_file()
