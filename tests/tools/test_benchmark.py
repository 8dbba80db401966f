"""tools/benchmark.py from the command line, as a user runs it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "benchmark.py"
# Seconds instead of minutes.
NARROW = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 2,
    "DATALOADER.NUM_WORKERS": 0,
}
PRETRAIN = NARROW | {
    "SOLVER.IMS_PER_BATCH": 8,
    "MOCO.DICTIONARY_SIZE": 32,
    "PRETRAIN.EPOCHS": 2.0,
    "PRETRAIN.WARMUP_EPOCHS": 0.0,
    "MLS.WARMUP": 0.0,
    "PRETRAIN.AUGMENT.CROP_SIZE": 32,
}
DETECTION = NARROW | {
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 8,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 40,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.STEPS": "()",
    "TEST.PRECISE_BN.NUM_ITER": 1,
}


@pytest.fixture
def run_in_process(monkeypatch, capfd, tmp_path):
    """Run the tool's main in this process; return its exit code, stdout and stderr."""
    spec = importlib.util.spec_from_file_location("benchmark_tool", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            tool.run_tool(tool.main)
        return (caught.value.code, *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("none.yaml",), "cannot read the suite 'none.yaml'"),
        (("--tasks", "coco"), "'methods' must be a list of at least one"),
        (("--methods", "mlss", "--tasks", "coco"), "did you mean 'mls'?"),
        (("--methods", "mls", "--tasks", "coc"), "did you mean 'coco'"),
        (("--methods", "mls", "--tasks", "coco", "--seeds", "1;2"), "seed '1;2' is not a whole"),
        (("--methods", "mls", "--tasks", "coco", "--preset", "papr"), "did you mean 'paper'?"),
        (("--methods", "mls", "--tasks", "coco", "--checkpoint", "a"), "must be NAME=FILE"),
        (("--methods", "mls", "--tasks", "coco", "--checkpoint", "a=b"), "there is no file 'b'"),
        (("--methods", "mls", "--tasks", "coco", "--jobs", "0"), "--jobs must be 1 or more"),
        (("--methods", "mls", "--tasks", "coco", "--num-gpus", "0"), "num_gpus must be"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(run_in_process, words, problem):
    code, _, err = run_in_process(*words)
    assert code == 2
    assert err.count("error: ") == 1
    assert problem in err


def test_part_of_a_suite_has_a_folder_of_its_own(run_in_process):
    words = (REPOSITORY / "suites/paper_table8.yaml", "--dry-run")
    code, out, _ = run_in_process(*words)
    assert code == 0
    assert "suite 'paper_table8', preset paper: 8 cells, 8 to do" in out
    code, out, _ = run_in_process(*words, "--methods", "mls", "--seeds", "0,1")
    assert "suite 'custom', preset paper: 3 cells, 3 to do" in out


def on_one_core():
    """Let the runner see one core: threads that wait for each other crawl on a busy machine."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.slow
def test_a_matrix_is_stopped_goes_on_is_reported_and_is_not_repeated(scenes_root, tmp_path):
    path = tmp_path / "tiny.yaml"
    content = {
        "methods": ["random", {"name": "mls", "method": "mls", "opts": PRETRAIN}],
        "tasks": [{"task": "coco", "opts": DETECTION}],
        "seeds": [3],
    }
    path.write_text(yaml.safe_dump(content))
    words = [sys.executable, "-W", "ignore", str(TOOL), str(path), "--jobs", "1"]
    words += ["--out", str(tmp_path / "out")]
    environment = os.environ | {
        "DETECTRON2_DATASETS": str(scenes_root),
        "PYTHONPATH": str(REPOSITORY),
        "CUDA_VISIBLE_DEVICES": "",
    }
    started = subprocess.Popen(
        words,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=on_one_core,
    )
    deadline = time.monotonic() + 300
    while not list((tmp_path / "out").glob("cells/transfer-*/metrics.json")):
        assert started.poll() is None, started.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    output = started.communicate(timeout=120)[0]
    assert started.returncode == 130, output
    assert "Traceback" not in output

    done = subprocess.run(
        words,
        env=environment,
        text=True,
        capture_output=True,
        timeout=500,
        preexec_fn=on_one_core,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pretrain/mls-seed0  reused" in done.stdout
    results = {
        path.parent.name: json.loads(path.read_text())
        for path in (tmp_path / "out/tiny/coco").glob("*/results.json")
    }
    assert {name: result["method"] for name, result in results.items()} == {
        "random-seed3": "random",
        "mls-seed3": "mls",
    }
    assert {result["seed"] for result in results.values()} == {3}
    assert (tmp_path / "out/tiny/report/report.md").is_file()
    resumed = [
        log for log in (tmp_path / "out").glob("cells/*/output.txt") if "resumed" in log.read_text()
    ]
    assert len(resumed) == 1

    again = subprocess.run(words, env=environment, text=True, capture_output=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "3 cells, 0 to do" in again.stdout
