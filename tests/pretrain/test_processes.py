"""Whole runs in processes of their own: several of them, and ones that are killed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.slow

# BatchNorm needs more than a few values a part, or it blows up rounding.
CHANGES = {
    "PRETRAIN.EPOCHS": "3.0",
    "PRETRAIN.AUGMENT.CROP_SIZE": "64",
    "SOLVER.IMS_PER_BATCH": "16",
    "SOLVER.BASE_LR": "0.01",
    "SOLVER.CHECKPOINT_PERIOD": "1",
    "MOCO.DICTIONARY_SIZE": "32",
}


@pytest.fixture
def start(tiny, tmp_path, request):
    """Starts a run into ``tmp_path/name`` and returns the process."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(35):
        # Patches of colour: BatchNorm would blow up the tiny differences between pictures of noise.
        pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((100, 80)).save(folder / f"{index}.png")
    running = []

    def begin(name: str, env: dict | None = None, resume: bool = False, **changes: str):
        values = tiny | CHANGES | {key.replace("__", "."): value for key, value in changes.items()}
        values |= {"DATASETS.TRAIN": f"('{folder}',)", "OUTPUT_DIR": str(tmp_path / name)}
        command = [sys.executable, "tools/pretrain.py"]
        command += ["--config-file", "pretrain/configs/mocov2_coco_400ep.yaml"]
        command += ["--resume"] if resume else []
        process = subprocess.Popen(
            [*command, *(word for pair in values.items() for word in pair)],
            cwd=request.config.rootpath,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()


def finish(*processes: subprocess.Popen) -> None:
    for process in processes:
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 0, error


def final_state(folder: Path) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("mode", ["shuffled", "local"])
def test_two_processes_take_the_step_of_one_with_their_batch(start, tmp_path, mode):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    two = [
        start(
            "two",
            address
            | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
            PRETRAIN__BATCH_NORM=mode,
            PRETRAIN__EPOCHS="0.5",
        )
        for rank in ("0", "1")
    ]
    one = start(
        "one",
        PRETRAIN__BATCH_NORM=mode,
        PRETRAIN__BATCH_NORM_GROUPS="2",
        PRETRAIN__EPOCHS="0.5",
    )
    finish(*two, one)
    several, single = (final_state(tmp_path / name) for name in ("two", "one"))
    # After one step SGD's momentum is the gradient, decay included.
    gradients = [state["optimizer"]["state"] for state in (several, single)]
    assert gradients[0].keys() == gradients[1].keys()
    for index, state in gradients[1].items():
        expected = state["momentum_buffer"]
        error = (gradients[0][index]["momentum_buffer"] - expected).abs().max()
        assert error <= 2e-3 * expected.abs().max(), index
    for name, value in single["model"].items():
        # One process keeps the mean of the parts' statistics, each of two its own.
        if "running" not in name:
            torch.testing.assert_close(several["model"][name], value, atol=1e-4, rtol=1e-3)
    rows = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("two", "one")]
    for key in ("loss_nce", "loss_ml", "positive_similarity", "label_similarity"):
        assert rows[0][key] == pytest.approx(rows[1][key], abs=1e-4), key


def test_a_run_that_was_killed_at_any_point_ends_as_one_that_was_not(start, tmp_path):
    finish(start("whole"))
    rng, folder = random.Random(0), tmp_path / "killed"
    for step, workers in ((0, "0"), (2, "1")):
        process = start("killed", resume=True, DATALOADER__NUM_WORKERS=workers)
        deadline = time.monotonic() + 60
        while not (folder / f"model_{step:07d}.pth").exists() and process.poll() is None:
            assert time.monotonic() < deadline, "no checkpoint within a minute"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "backbone.pth").exists()
    finish(start("killed", resume=True, DATALOADER__NUM_WORKERS="2"))
    whole, resumed = final_state(tmp_path / "whole"), final_state(folder)
    assert whole["model"].keys() == resumed["model"].keys()
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    for part in ("optimizer", "scheduler"):
        assert str(whole[part]) == str(resumed[part])
    logs = [(f / "metrics.json").read_text().splitlines() for f in (tmp_path / "whole", folder)]
    losses = [[json.loads(line)["total_loss"] for line in log] for log in logs]
    assert losses[0] == losses[1]
