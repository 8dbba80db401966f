"""The conditions of a run: versions, revision, machine, command line, device, seed."""

import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import detectron2
import detectron2.utils.comm as comm
import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

import mls_d2
from mls_d2.core.files import check_writable, write_bytes, write_json
from mls_d2.results.schema import Device

logger = logging.getLogger(__name__)

_DISTRIBUTIONS = (
    "torch",
    "torchvision",
    "numpy",
    "fvcore",
    "faster-coco-eval",
    "pillow",
    "simplejpeg",
    "opencv-contrib-python-headless",
)
CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"


def collect_versions() -> dict[str, str | bool | None]:
    """Return versions of Python, the libraries and this project with its git revision.

    ``git_revision`` is None, and ``git_dirty`` False, outside of a git checkout.
    """
    revision, dirty = _git_state()
    versions: dict[str, str | bool | None] = {
        "python": platform.python_version(),
        "detectron2": detectron2.__version__,
        "mls_d2": mls_d2.__version__,
        "git_revision": revision,
        "git_dirty": dirty,
    }
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def collect_environment() -> dict[str, Any]:
    """Return :func:`collect_versions`, the machine and the command line, as plain JSON types."""
    return {
        "versions": collect_versions(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "world_size": comm.get_world_size(),
        "command": command_line(),
    }


def collect_device(device: str) -> Device:
    """Return the devices of this run, all processes together; ``device`` is a resolved one."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
        return Device(kind="cuda", name=name, count=comm.get_world_size())
    return Device(kind=device, name=platform.processor(), count=torch.get_num_threads())


def command_line() -> str:
    """Return the command that started this process, quoted for a shell."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


def save_run_metadata(output_dir: str, cfg: CfgNode, extra: dict[str, Any] | None = None) -> None:
    """Write ``config.yaml`` and ``environment.json`` into ``output_dir`` (main process only).

    ``extra`` holds plain values for the latter. Its previous contents are kept under ``"earlier"``,
    so that a run that was resumed with another revision or on another machine shows both.

    Raises:
        UserError: the folder is not writable or full.
    """
    if not comm.is_main_process():
        return
    write_bytes(os.path.join(output_dir, CONFIG_FILE), cfg.dump().encode())
    path = os.path.join(output_dir, ENVIRONMENT_FILE)
    write_json(path, collect_environment() | (extra or {}) | {"earlier": _earlier(path)})


def setup_logging(output_dir: str | None = None) -> None:
    """Send the log of Detectron2 and of this project to the terminal and ``output_dir/log.txt``.

    Raises:
        UserError: ``output_dir`` is not writable or full.
    """
    if output_dir and comm.is_main_process():
        check_writable(output_dir)
    comm.synchronize()
    # Detectron2 adds handlers on each call with other arguments; a second call here replaces them.
    setup_logger.cache_clear()
    for name in ("detectron2", "fvcore", "mls_d2", "pretrain"):
        logging.getLogger(name).handlers.clear()
        setup_logger(output_dir, distributed_rank=comm.get_rank(), name=name, abbrev_name=name)


def resolve_device(cfg: CfgNode) -> None:
    """Apply ``CUDNN_BENCHMARK`` and set what depends on the device.

    ``MODEL.DEVICE`` becomes the CPU if there is no GPU, and ``PRETRAIN.AMP_DTYPE`` "auto" the type
    that the device computes with; a CPU that lacks bfloat16 computes in float32.
    """
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.info("no GPU found: running on the CPU with %d threads", torch.get_num_threads())
        cfg.MODEL.DEVICE = "cpu"
    if cfg.PRETRAIN.AMP_DTYPE == "auto":
        device = cfg.MODEL.DEVICE
        old = device.startswith("cuda") and torch.cuda.get_device_capability(device) < (8, 0)
        cfg.PRETRAIN.AMP_DTYPE = "float16" if old else "bfloat16"
        if device == "cpu" and cfg.SOLVER.AMP.ENABLED and not _computes_bfloat16():
            logger.info("this CPU has no instructions for bfloat16: computing in float32")
            cfg.SOLVER.AMP.ENABLED = False


def _computes_bfloat16() -> bool:
    # Older versions of torch do not know; emulation is several times slower than float32.
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def seed_everything(cfg: CfgNode, *, start_iteration: int = 0) -> None:
    """Seed Python, NumPy and torch from ``cfg.SEED``, differently in every process.

    A ``SEED`` below zero draws one and stores it in ``cfg``. A resumed run gives its
    ``start_iteration``, so that its first batches are not repeated.
    """
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed() % 2**20
        logger.info("SEED was not set; drew %d", cfg.SEED)
    seed_all_rng((cfg.SEED + 1_000_003 * start_iteration + comm.get_rank()) % 2**31)


def _earlier(path: str) -> list[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
        return [*before.pop("earlier", []), before]
    except (AttributeError, OSError, RecursionError, TypeError, ValueError):
        return []


def _git_state() -> tuple[str | None, bool]:
    root = Path(mls_d2.__file__).resolve().parent.parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=10)

    try:
        if (root / ".git").exists():
            changes = git("status", "--porcelain", "--untracked-files=no")
            return git("rev-parse", "HEAD").strip(), bool(changes.strip())
    except (OSError, subprocess.SubprocessError):
        pass
    return None, False
