"""Whole runs in their own processes: several of them, and ones that are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.pretrain.conftest import write_images
from tests.two_processes import free_port

pytestmark = pytest.mark.slow

# For what takes seconds: a machine may be busy with other work.
PATIENCE_S = 240

# BatchNorm needs more than a few values a part, or it blows up rounding.
CHANGES = {
    "PRETRAIN.EPOCHS": "3.0",
    "PRETRAIN.AUGMENT.CROP_SIZE": "64",
    "SOLVER.IMS_PER_BATCH": "16",
    "SOLVER.BASE_LR": "0.01",
    "SOLVER.CHECKPOINT_PERIOD": "1",
    "MOCO.DICTIONARY_SIZE": "48",  # a batch does not divide it
}


@pytest.fixture
def start(tiny, tmp_path, request):
    """Starts a run into ``tmp_path/name`` and returns the process."""
    # Patches of colour: BatchNorm would blow up the tiny differences between pictures of noise.
    names = [f"{index}.png" for index in range(35)]
    folder = write_images(tmp_path / "images", names, (80, 100), drawn=(4, 5))
    running = []

    def begin(
        name: str,
        env: dict | None = None,
        resume: bool = False,
        launcher: tuple[str, ...] = (),
        **changes: str,
    ):
        values = tiny | CHANGES | {key.replace("__", "."): value for key, value in changes.items()}
        values |= {"DATASETS.TRAIN": f"('{folder}',)", "OUTPUT_DIR": str(tmp_path / name)}
        command = [sys.executable, *launcher, "tools/pretrain.py"]
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
        error = process.communicate(timeout=PATIENCE_S)[1]
        assert process.returncode == 0, error


def final_state(folder: Path) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)


def start_two(start, name: str, own=({}, {}), **options) -> list[subprocess.Popen]:
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    told |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [
        start(name, told | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, **options, **own[rank])
        for rank in range(2)
    ]


def wait_for(path: Path, *processes: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists() and all(process.poll() is None for process in processes):
        assert time.monotonic() < deadline, f"no {path.name} in time"
        time.sleep(0.002)


def wait_for_iteration(folder: Path, iteration: int, *processes: subprocess.Popen) -> None:
    deadline, log = time.monotonic() + PATIENCE_S, folder / "metrics.json"
    while f'"iteration": {iteration},' not in (log.read_text() if log.exists() else ""):
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline, f"iteration {iteration} not reached in time"
        time.sleep(0.01)


def assert_same_end(one: Path, other: Path) -> None:
    states = [final_state(folder) for folder in (one, other)]
    assert states[0]["model"].keys() == states[1]["model"].keys()
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name
    for part in ("optimizer", "scheduler"):
        assert str(states[0][part]) == str(states[1][part])
    logs = [(folder / "metrics.json").read_text().splitlines() for folder in (one, other)]
    losses = [[json.loads(line)["total_loss"] for line in log] for log in logs]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("mode", "method", "terms"),
    [
        ("shuffled", "mls", ["loss_nce", "loss_ml", "positive_similarity", "label_similarity"]),
        pytest.param(
            "shuffled",
            "densecl",
            ["loss_nce", "loss_dense", "dense_similarity"],
            marks=pytest.mark.full,
        ),
        pytest.param(
            "local",
            "simclr",
            ["loss_nce", "nce_accuracy", "negative_similarity"],
            marks=pytest.mark.full,
        ),
    ],
)
def test_two_processes_take_the_step_of_one_with_their_batch(start, tmp_path, mode, method, terms):
    changes = {"PRETRAIN__METHOD": method, "PRETRAIN__BATCH_NORM": mode, "PRETRAIN__EPOCHS": "0.5"}
    two = start_two(start, "two", **changes)
    one = start("one", PRETRAIN__BATCH_NORM_GROUPS="2", **changes)
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
    for key in terms:
        assert rows[0][key] == pytest.approx(rows[1][key], abs=1e-4), key


@pytest.mark.full
def test_a_run_that_was_killed_at_any_point_ends_as_one_that_was_not(start, tmp_path):
    finish(start("whole"))
    rng, folder = random.Random(0), tmp_path / "killed"
    # Anywhere, and at the borders of the first and the second epoch.
    for step, workers, longest in ((0, "0", 0.1), (1, "2", 0.0), (3, "1", 0.0)):
        process = start("killed", resume=True, DATALOADER__NUM_WORKERS=workers)
        wait_for(folder / f"model_{step:07d}.pth", process)
        time.sleep(rng.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "backbone.pth").exists()
    finish(start("killed", resume=True, DATALOADER__NUM_WORKERS="2"))
    assert_same_end(tmp_path / "whole", folder)


@pytest.mark.full
def test_two_processes_that_were_killed_end_as_two_that_were_not(start, tmp_path):
    changes = {"PRETRAIN__EPOCHS": "6.0"}
    finish(*start_two(start, "whole", **changes))
    rng, folder = random.Random(1), tmp_path / "killed"
    # At the border of the second epoch, and anywhere.
    for step, longest in ((3, 0.0), (5, 0.3)):
        pair = start_two(start, "killed", resume=True, **changes)
        wait_for(folder / f"model_{step:07d}.pth", *pair)
        time.sleep(rng.uniform(0, longest))
        for process in rng.sample(pair, 2):
            process.send_signal(signal.SIGKILL)
        for process in pair:
            process.wait()
    assert not (folder / "backbone.pth").exists()
    finish(*start_two(start, "killed", resume=True, **changes))
    assert_same_end(tmp_path / "whole", folder)


@pytest.mark.full
def test_a_run_of_two_processes_goes_on_with_one_of_the_same_batch(start, tmp_path):
    # Without BatchNorm, whose statistics are those of a process, the numbers are the same.
    changes = {"MODEL__RESNETS__NORM": "GN", "PRETRAIN__METHOD": "mocov2"}
    changes["SOLVER__REFERENCE_WORLD_SIZE"] = "2"
    widths = ("STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS", "WIDTH_PER_GROUP")
    changes |= {f"MODEL__RESNETS__{width}": "32" for width in widths}
    finish(*start_two(start, "whole", **changes))
    folder = tmp_path / "killed"
    pair = start_two(start, "killed", **changes)
    wait_for(folder / "model_0000002.pth.sha256", *pair)
    for process in pair:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = torch.load(folder / "model_0000002.pth", weights_only=True)["model"]
    refused = start("killed", resume=True, **changes)
    error = refused.communicate(timeout=PATIENCE_S)[1]
    assert refused.returncode == 2
    assert "SOLVER.IMS_PER_BATCH: was 16, is 8" in error
    assert "add SOLVER.REFERENCE_WORLD_SIZE 1" in error
    finish(start("killed", resume=True, **changes | {"SOLVER__REFERENCE_WORLD_SIZE": "1"}))
    whole, other = (final_state(path)["model"] for path in (tmp_path / "whole", folder))
    weights = [name for name in whole if name.startswith("encoder.")]
    moved, apart = (
        max(float((state[name] - whole[name]).abs().max()) for name in weights)
        for state in (before, other)
    )
    assert apart < 0.02 * moved
    rows = [(tmp_path / name / "metrics.json").read_text() for name in ("whole", "killed")]
    steps = [[json.loads(line)["iteration"] for line in text.splitlines()] for text in rows]
    assert steps[0] == steps[1]


@pytest.mark.full
def test_any_processs_signal_stops_both_with_a_checkpoint_and_they_go_on(start, tmp_path):
    # The only periodic checkpoint is too late to help.
    changes = {"PRETRAIN__EPOCHS": "20.0", "SOLVER__CHECKPOINT_PERIOD": "1000"}
    finish(*start_two(start, "whole", **changes))
    folder, done = tmp_path / "stopped", -1
    for signals, code in (
        ({1: signal.SIGTERM}, 75),
        ({0: signal.SIGUSR1, 1: signal.SIGTERM}, 75),
        ({0: signal.SIGINT, 1: signal.SIGINT}, 130),
    ):
        pair = start_two(start, "stopped", resume=True, **changes)
        wait_for_iteration(folder, done + 3, *pair)
        for index, number in signals.items():
            pair[index].send_signal(number)
        errors = [process.communicate(timeout=PATIENCE_S)[1] for process in pair]
        assert [process.returncode for process in pair] == [code, code], errors
        saved = max(int(path.stem.removeprefix("model_")) for path in folder.glob("model_0*.pth"))
        assert done < saved < 39
        done = saved
    finish(*start_two(start, "stopped", resume=True, **changes))
    assert_same_end(tmp_path / "whole", folder)


@pytest.mark.full
def test_a_truncated_newest_checkpoint_is_named_and_the_one_before_is_used(start, tmp_path):
    finish(start("whole"))
    folder = tmp_path / "cut"
    process = start("cut")
    wait_for(folder / "model_0000002.pth.sha256", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # A kill may come before a file takes its place as the newest.
    newest = folder / (folder / "last_checkpoint").read_text()
    newest.write_bytes(newest.read_bytes()[:-1000])
    finish(start("cut", resume=True))
    assert f"{newest.name}' is damaged or truncated" in (folder / "log.txt").read_text()
    assert_same_end(tmp_path / "whole", folder)


@pytest.mark.full
def test_torchrun_starts_again_what_died_and_it_ends_as_one_that_did_not(start, tmp_path):
    finish(*start_two(start, "whole"))
    elastic = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = start(
        "elastic",
        # See docs/running.md.
        {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        resume=True,
        launcher=(*elastic, "--max-restarts", "1"),
    )
    wait_for(tmp_path / "elastic" / "model_0000002.pth", run)
    workers = subprocess.run(["pgrep", "-P", str(run.pid)], stdout=subprocess.PIPE, text=True)
    os.kill(int(workers.stdout.split()[-1]), signal.SIGKILL)
    finish(run)
    assert "resumed from" in (tmp_path / "elastic" / "log.txt").read_text()
    assert_same_end(tmp_path / "whole", tmp_path / "elastic")


@pytest.mark.full
def test_machines_with_different_options_are_told_which(start):
    pair = start_two(start, "differ", [{"SOLVER__BASE_LR": rate} for rate in ("0.01", "0.02")])
    for process in pair:
        error = process.communicate(timeout=PATIENCE_S)[1]
        assert process.returncode == 2
        assert "SOLVER.BASE_LR: 0.01 and 0.02" in error
        assert "Traceback" not in error
