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


def command(*words):
    return [sys.executable, "-W", "ignore", str(TOOL), "--config-file", *map(str, words)]


@pytest.fixture
def run_in_process(monkeypatch, capfd):
    """Run the tool's main in this process; return its exit code, stdout and stderr."""
    spec = importlib.util.spec_from_file_location("train_net", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*words):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            tool.run_tool(tool.main)
        return (caught.value.code, *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--config-file", "none.yaml"), "no config file 'none.yaml'"),
        (("--config-file", QUICK, "SOLVER.BASE_LRR", "1"), "did you mean 'SOLVER.BASE_LR'"),
        (("--config-file", QUICK, "SOLVER.BASE_LR"), "odd number of words"),
        (("--config-file", QUICK, "DATASETS.TRAIN", "('coco_2017_trian',)"), "coco_2017_train"),
        (("--config-file", QUICK, "DATASETS.TEST", "()"), "DATASETS.TEST is empty"),
        (("--config-file", QUICK, "--num-gpus", "64"), r"--num-gpus 64, but this machine has"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(run_in_process, words, problem):
    code, _, err = run_in_process(*words)
    assert code == 2
    assert err.count("error: ") == 1
    assert problem in err
    assert "Traceback" not in err


def test_help_shows_an_example_of_each_use(run_in_process):
    code, out, _ = run_in_process("--help")
    assert code == 0
    for word in ("--resume", "--eval-only", "--num-gpus", "MODEL.WEIGHTS random", "results.json"):
        assert word in out


@pytest.mark.slow
def test_a_run_survives_ctrl_c_resumes_repeats_nothing_and_is_evaluated(scenes_root, tmp_path):
    environment = os.environ | {"DETECTRON2_DATASETS": str(scenes_root), "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "run"
    words = [QUICK, "--resume", "MODEL.WEIGHTS", "random", "OUTPUT_DIR", folder, *SMALL]
    words += ["SOLVER.MAX_ITER", "400"]

    first = subprocess.Popen(
        command(*words),
        env=environment,
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A group of its own, as a terminal makes it: data loader workers get the signal, too.
        start_new_session=True,
    )
    try:
        wait_for(lambda: has_content(folder / "metrics.json"), first)
        os.killpg(first.pid, signal.SIGINT)
        output = first.communicate(timeout=120)[0]
    finally:
        first.kill()
    assert first.returncode == 130, output
    assert "Traceback" not in output
    last = (folder / "last_checkpoint").read_text()
    assert last.startswith("model_")
    assert last != "model_final.pth"
    done = int(last.removeprefix("model_").removesuffix(".pth")) + 1
    assert 20 <= done < 400

    words[words.index("400")] = str(done + 2)
    changed = run(command(*words), environment, tmp_path)
    assert changed.returncode == 2
    assert f"SOLVER.MAX_ITER: was 400, is {done + 2}" in changed.stderr

    saved = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(saved.replace("MAX_ITER: 400", f"MAX_ITER: {done + 2}"))
    resumed = run(command(*words), environment, tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"resumed from {folder}/{last}" in resumed.stdout
    result = json.loads((folder / "results.json").read_text())
    assert result["dataset"]["synthetic"] is True
    assert result["preset"] == "quick"
    assert result["task"] == "coco_mask_rcnn_fpn"
    assert (folder / "predictions.png").exists()

    again = run(command(*words), environment, tmp_path)
    assert again.returncode == 0
    assert "already finished" in again.stdout

    weights = ["MODEL.WEIGHTS", folder / "model_final.pth", "OUTPUT_DIR", tmp_path / "evaluated"]
    evaluated = run(command(QUICK, "--eval-only", *weights, *SMALL), environment, tmp_path)
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    metrics = json.loads((tmp_path / "evaluated" / "results.json").read_text())["metrics"]
    assert metrics["bbox"]["AP"] == pytest.approx(result["metrics"]["bbox"]["AP"])


def run(words, environment, folder):
    return subprocess.run(
        words, env=environment, cwd=folder, text=True, capture_output=True, timeout=300
    )


def has_content(path):
    return path.exists() and path.stat().st_size > 0


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.1)
