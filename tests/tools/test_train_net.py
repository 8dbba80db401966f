"""tools/train_net.py from the command line, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mls_d2.conftest import DETECTOR, QUICK

TOOL = Path(__file__).resolve().parents[2] / "tools" / "train_net.py"
# Seconds instead of a minute and a half.
TINY = DETECTOR | {"SOLVER.WARMUP_ITERS": 2, "SOLVER.STEPS": "()", "DATALOADER.NUM_WORKERS": 2}
SMALL = [str(word) for pair in TINY.items() for word in pair]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--config-file", "none.yaml"), "missing-file"),
        (("--config-file", QUICK, "SOLVER.BASE_LRR", "1"), "unknown-key"),
        (("--config-file", QUICK, "SOLVER.BASE_LR"), "bad-option"),
        (("--config-file", QUICK, "DATASETS.TEST", "()"), "bad-value"),
        (("--config-file", QUICK, "--num-gpus", "64"), "bad-option"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(run_tool, words, code):
    done = run_tool("train_net", *words)
    assert (done.code, done.err.count("error: ")) == (2, 1)
    assert done.err.endswith(f" [{code}]\n")
    assert "Traceback" not in done.err


@pytest.mark.full
def test_a_run_survives_ctrl_c_and_resumes(scenes_root, tmp_path):
    environment = os.environ | {"DETECTRON2_DATASETS": str(scenes_root), "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "run"
    words = [sys.executable, "-W", "ignore", str(TOOL), "--config-file", str(QUICK), "--resume"]
    words += ["MODEL.WEIGHTS", "random", "OUTPUT_DIR", str(folder), *SMALL]
    words += ["SOLVER.MAX_ITER", "400"]
    first = subprocess.Popen(
        words,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A group of its own, as a terminal makes it: data loader workers get the signal, too.
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 240
        while not (folder / "metrics.json").exists() or not (folder / "metrics.json").read_text():
            assert first.poll() is None, first.stdout.read()
            assert time.monotonic() < end
            time.sleep(0.1)
        os.killpg(first.pid, signal.SIGINT)
        output = first.communicate(timeout=120)[0]
    finally:
        first.kill()
    assert first.returncode == 130, output
    assert "Traceback" not in output
    last = (folder / "last_checkpoint").read_text()
    done = int(last.removeprefix("model_").removesuffix(".pth")) + 1
    assert 20 <= done < 400

    words[words.index("400")] = str(done + 1)
    saved = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(saved.replace("MAX_ITER: 400", f"MAX_ITER: {done + 1}"))
    resumed = subprocess.run(words, env=environment, text=True, capture_output=True, timeout=300)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"resumed from {folder}/{last}" in resumed.stdout
    result = json.loads((folder / "results.json").read_text())
    assert result["dataset"]["synthetic"] is True
    assert (result["preset"], result["task"]) == ("quick", "coco_mask_rcnn_fpn")
    assert (folder / "predictions.png").exists()


@pytest.mark.parametrize(
    ("option", "function"), [("--eval-only", "run_evaluation"), ("--dry-run", "check_transfer")]
)
def test_options_evaluate_or_check_alone(run_tool, load_tool, monkeypatch, option, function):
    calls = []
    monkeypatch.setattr(load_tool("train_net"), function, calls.append)
    words = ("--config-file", QUICK, option, "MODEL.WEIGHTS", "x.pth")
    assert run_tool("train_net", *words).code == 0
    assert calls[0].MODEL.WEIGHTS == "x.pth"
