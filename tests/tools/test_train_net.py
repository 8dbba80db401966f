"""tools/train_net.py from the command line, as a user runs it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "train_net.py"
QUICK = REPOSITORY / "transfer_configs" / "coco" / "mask_rcnn_R_50_FPN_quick.yaml"
# Seconds instead of a minute and a half.
SMALL = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "4", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "2", "MODEL.FPN.OUT_CHANNELS", "8"),
    *("MODEL.ROI_BOX_HEAD.CONV_DIM", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "8"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "8", "INPUT.MIN_SIZE_TRAIN", "(64,)"),
    *("INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "2"),
    *("SOLVER.STEPS", "()", "TEST.PRECISE_BN.NUM_ITER", "1"),
]


@pytest.fixture
def run_in_process(monkeypatch, capfd):
    """Run the tool's main in this process; return its exit code, stdout and stderr."""

    def run(*words):
        spec = importlib.util.spec_from_file_location("train_net", TOOL)
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            tool.run_tool(tool.main)
        return (caught.value.code, *capfd.readouterr())

    return run


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
def test_bad_input_is_one_message_and_exit_code_2(run_in_process, words, code):
    exit_code, _, err = run_in_process(*words)
    assert exit_code == 2
    assert err.count("error: ") == 1
    assert err.endswith(f" [{code}]\n")
    assert "Traceback" not in err


@pytest.mark.slow
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


def test_eval_only_evaluates(run_in_process, monkeypatch):
    calls = []
    monkeypatch.setattr("mls_d2.transfer.run.run_evaluation", calls.append)
    code, *_ = run_in_process("--config-file", QUICK, "--eval-only", "MODEL.WEIGHTS", "x.pth")
    assert (code, calls[0].MODEL.WEIGHTS) == (0, "x.pth")
