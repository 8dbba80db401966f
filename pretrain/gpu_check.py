"""Checks of pretraining on a machine: every method's steps, the loader's rate, kill and resume."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from PIL import Image
from torch import nn

from mls_d2.checkpoint.backbone_file import read_backbone
from mls_d2.config.loading import load_cfg
from mls_d2.run.gpu_check import Check, CheckFailed, agreement
from pretrain.batch import Batch
from pretrain.data import build_loader, image_source
from pretrain.methods import METHODS, build_method
from pretrain.optim import build_optimizer
from pretrain.samples import noise_batch, take_step
from pretrain.views import augment_from_config

# A ResNet-50 of few channels, so that a step in float64 takes no time.
NARROW = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
}
# Of a step; SwAV needs as many images as prototypes.
_SMALL = {"SOLVER__IMS_PER_BATCH": 8, "SWAV__NUM_PROTOTYPES": 8}
_STEPS = 3
# Relative difference of losses in float64; in bfloat16 they only have to be finite.
_TOLERANCE = 1e-6
# A resumed run may differ from an uninterrupted one by the order of sums on a GPU.
_RESUMED = 1e-2


def method_checks(root: Path, device: torch.device) -> dict[str, Check]:
    """Return a check of every method that has a quick config below ``root``."""

    def check_of(name: str) -> Check:
        return lambda: check_method(quick_cfg(root, name, **_SMALL), device)

    paths = {name: root / f"pretrain/configs/{name}_quick.yaml" for name in METHODS.names()}
    return {f"method {name}": check_of(name) for name, path in paths.items() if path.is_file()}


def quick_cfg(root: Path, name: str, **changes: Any) -> CfgNode:
    """Return the quick config of a method, with a narrow network; ``__`` stands for a dot."""
    values = NARROW | {key.replace("__", "."): value for key, value in changes.items()}
    words = [str(word) for pair in values.items() for word in pair]
    return load_cfg(str(root / f"pretrain/configs/{name}_quick.yaml"), words)


def small_backbone(root: Path) -> Callable[[], nn.Module]:
    """Return a function that makes the narrow backbone, always with the same weights."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        return build_backbone(quick_cfg(root, "mls"))

    return make


def check_method(cfg: CfgNode, device: torch.device) -> str:
    """Compare the losses of three steps in float64 with the CPU's, and take one in bfloat16.

    Raises:
        CheckFailed: they differ, or one is not finite.
    """
    expected = losses(cfg, torch.device("cpu"))
    text = agreement([losses(cfg, device)], [expected], _TOLERANCE)
    with torch.autocast(device.type, torch.bfloat16):
        half = losses(cfg, device, dtype=torch.float32)
    if not bool(torch.isfinite(half).all()):
        raise CheckFailed(f"{text}; in bfloat16 the losses are {half.tolist()}")
    first = [float(values[0]) for values in (half, expected)]
    return f"{text}; first loss in bfloat16 {first[0]:.4f}, in float64 {first[1]:.4f}"


def losses(
    cfg: CfgNode, device: torch.device, *, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Return the losses ``(3,)`` of steps on noise, from weights that the seed fixes."""
    torch.manual_seed(0)
    method = build_method(cfg).to(dtype).to(device)
    optimizer = build_optimizer(cfg, method)
    found = []
    for step in range(_STEPS):
        batch = moved(noise_batch(cfg, cfg.SOLVER.IMS_PER_BATCH, seed=step), device, dtype)
        output = take_step(method, optimizer, batch, step)
        found.append(torch.stack([*output.weighted().values()]).sum().detach())
    return torch.stack(found).cpu()


def moved(batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    """Return a batch on a device, with views in another type."""
    return dataclasses.replace(
        batch,
        views=[view.to(device, dtype) for view in batch.views],
        rectangles=batch.rectangles.to(device),
        flips=batch.flips.to(device),
        image_sizes=batch.image_sizes.to(device),
        index=batch.index.to(device),
        extras={name: value.to(device) for name, value in batch.extras.items()},
    )


def write_images(folder: Path, count: int) -> None:
    """Write JPEGs of 640 × 480 smooth random colours, of about the size of COCO's."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(
            folder / f"{index:04d}.jpg", quality=92
        )


def check_rates(cfg: CfgNode, device: torch.device, *, batches: int = 20) -> str:
    """Measure the loader and the step of one process, and say which one is the bound.

    Args:
        cfg: with the images of one process as the batch.
        device: of the step.
        batches: to measure, after a fifth of them.
    """
    loader = iter(
        build_loader(cfg, image_source(cfg.DATASETS.TRAIN), start=0, rank=0, world_size=1)
    )
    size, warm = cfg.SOLVER.IMS_PER_BATCH, max(1, batches // 5)
    loaded = [next(loader) for _ in range(warm)][-1]
    start = time.perf_counter()
    for _ in range(batches):
        loaded = next(loader)
    loading = batches * size / (time.perf_counter() - start)
    augment = augment_from_config(cfg, device)
    method = build_method(cfg).to(device).to(memory_format=torch.channels_last)
    optimizer, noise = build_optimizer(cfg, method), noise_batch(cfg, size)

    def step(number: int) -> None:
        batch = moved(noise, device, torch.float32)
        batch = dataclasses.replace(batch, views=augment(loaded.groups, number))
        take_step(method, optimizer, batch, number)
        if device.type == "cuda" and number in (warm - 1, warm + batches - 1):
            torch.cuda.synchronize()

    for number in range(warm):
        step(number)
    start = time.perf_counter()
    for number in range(warm, warm + batches):
        step(number)
    stepping = batches * size / (time.perf_counter() - start)
    bound = "the loader" if loading < stepping else "the step"
    workers = cfg.DATALOADER.NUM_WORKERS
    return (
        f"loader {loading:.0f} images/s with {workers} workers, step {stepping:.0f} images/s: "
        f"{bound} is the bound"
    )


def check_resume(tool: Sequence[str], root: Path, folder: Path, device: torch.device) -> str:
    """Kill a pretraining after a checkpoint, resume it, and compare it with an uninterrupted one.

    Args:
        tool: the command line of tools/pretrain.py.
        root: of the checkout.
        folder: for the runs; ``folder/images`` has images.
        device: to train on.

    Raises:
        CheckFailed: a run fails, does not resume, or its weights differ.
    """
    changes = NARROW | {
        "DATASETS.TRAIN": f"('{folder / 'images'}',)",
        "MODEL.DEVICE": device.type,
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "PRETRAIN.EPOCHS": 5.0,
        "PRETRAIN.WARMUP_EPOCHS": 0.0,
        "PRETRAIN.LOG_PERIOD": 1,
        "MLS.WARMUP": 0.0,
        "SEED": 0,
    }
    words = [str(word) for pair in changes.items() for word in pair]
    config = str(root / "pretrain/configs/mls_quick.yaml")
    command = [*tool, "--config-file", config, "--resume", *words, "OUTPUT_DIR"]
    _finish([*command, str(folder / "whole")])
    _kill_after_checkpoint([*command, str(folder / "killed")], folder / "killed")
    if "resumed from" not in _finish([*command, str(folder / "killed")]):
        raise CheckFailed("the run was killed, but the second one began from the start")
    files = [read_backbone(str(folder / name / "backbone.pth")) for name in ("killed", "whole")]
    tensors = [[value for value in file.state_dict.values() if value.ndim] for file in files]
    return f"resumed; the backbone {agreement(tensors[0], tensors[1], _RESUMED)}"


def _finish(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise CheckFailed(f"exit code {done.returncode}: {' '.join(last)}")
    return done.stdout + done.stderr


def _kill_after_checkpoint(command: Sequence[str], folder: Path) -> None:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None and not list(folder.glob("model_*.sha256")):
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
