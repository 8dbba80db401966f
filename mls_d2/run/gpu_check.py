"""Checks of a machine before the first long run: the devices, the kernels and the connections.

A check returns what it found, in a few words. On the CPU every check runs that means something
there, so that the checks themselves are tested.
"""

import functools
import json
import os
import subprocess
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mls_d2.core.errors import UserError
from mls_d2.core.files import write_json
from mls_d2.run.launch import environments, join_processes
from mls_d2.run.spawn import run_processes

Check = Callable[[], str]
OK, FAILED = "ok", "failed"
# Minutes until processes that do not meet are given up.
_MEET_MIN = 1.0
_REDUCED_MB = 100


class CheckFailed(Exception):
    """What was found is not what was expected."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    name: str
    state: str  # "ok" or "failed"
    text: str  # what was found
    seconds: float
    details: str = ""  # the traceback of an unexpected error

    def line(self) -> str:
        """Return a row of the table."""
        return f"{self.name:<28} {self.state:<8} {self.seconds:6.1f} s  {self.text}"


def run_checks(checks: Mapping[str, Check]) -> Iterator[CheckResult]:
    """Run the checks one after the other; a failing one does not stop the others."""
    for name, check in checks.items():
        start, details = time.perf_counter(), ""
        try:
            state, text = OK, check()
        except (CheckFailed, UserError) as error:
            state, text = FAILED, str(error)
        except Exception as error:  # whatever a driver or a kernel raises
            first = next(iter(str(error).splitlines()), "")
            state, text = FAILED, f"{type(error).__name__}: {first}"
            details = traceback.format_exc()
        yield CheckResult(name, state, text, round(time.perf_counter() - start, 2), details)


def machine_checks(device: torch.device, backbone: Callable[[], nn.Module]) -> dict[str, Check]:
    """Return the checks that need no method and no task.

    ``backbone`` makes a small backbone ``(N, 3, 64, 64)`` → maps by name, always the same.
    """
    return {
        "device": lambda: describe_devices(device),
        "processes": lambda: check_processes(device),
        "channels_last": lambda: check_channels_last(device, backbone),
        "mixed precision": lambda: check_autocast(device),
        "compile": lambda: check_compile(device, backbone),
    }


def describe_devices(device: torch.device) -> str:
    """Return names, free memory, driver and libraries.

    Raises:
        CheckFailed: a GPU has less than half of its memory free.
    """
    if device.type != "cuda":
        return f"{os.cpu_count()} cores, torch {torch.__version__}"
    found, full = [], []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append(f"{name} {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
        full += [str(index)] if free < total / 2 else []
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, driver {_driver()}"
    text = f"{'; '.join(found)}; {versions}, cuDNN {torch.backends.cudnn.version()}"
    if full:
        raise CheckFailed(f"{text}: another process uses the memory of GPU {', '.join(full)}")
    return text


def check_channels_last(device: torch.device, backbone: Callable[[], nn.Module]) -> str:
    """Compare a step in channels_last memory with one in planar memory, in float64."""
    planar = gradients(backbone().to(device).double(), device)
    last = backbone().to(device).double().to(memory_format=torch.channels_last)
    return agreement(gradients(last, device, torch.channels_last), planar, 1e-8)


def check_autocast(device: torch.device) -> str:
    """Compare a convolution in bfloat16 and, on a GPU, float16 with one in float32."""
    torch.manual_seed(0)
    layer, images, parts = nn.Conv2d(3, 64, 7).to(device), _noise().to(device), []
    with torch.no_grad():
        expected = layer.double()(images.double())
        layer.float()
        for dtype in (torch.bfloat16, torch.float16)[: 2 if device.type == "cuda" else 1]:
            with torch.autocast(device.type, dtype):
                found = layer(images)
            if found.dtype is not dtype:
                raise CheckFailed(f"autocast to {dtype} gives {found.dtype}")
            parts.append(f"{str(dtype)[6:]} {agreement([found], [expected], 0.02)}")
    return ", ".join(parts)


def check_compile(
    device: torch.device, backbone: Callable[[], nn.Module], *, backend: str = "inductor"
) -> str:
    """Compare a compiled step with an eager one, in float64."""
    eager = gradients(backbone().to(device).double(), device)
    model = backbone().to(device).double()
    model.compile(backend=backend)
    return agreement(gradients(model, device), eager, 1e-8)


def check_processes(device: torch.device) -> str:
    """Let one process per GPU, or two on a CPU, exchange tensors: see :func:`exchange`.

    Raises:
        CheckFailed: a process did not end as it should.
    """
    count = torch.cuda.device_count() if device.type == "cuda" else 2
    shape = Namespace(num_gpus=count, num_machines=1, machine_rank=0, dist_url="auto")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "found.json")
        main = functools.partial(exchange, path, device.type)
        join = functools.partial(join_processes, main, timeout_min=_MEET_MIN, device=device.type)
        code = run_processes(join, environments(shape))
        if code or not os.path.isfile(path):
            raise CheckFailed(f"{count} processes: exit code {code}; their errors are above")
        return str(json.loads(Path(path).read_text(encoding="utf-8"))["text"])


def exchange(path: str, device: str) -> int:
    """In one of W processes: sum, time a sum of 100 MB, and normalise over all processes.

    Process 0 writes what it found to ``path``.

    Raises:
        CheckFailed: a wrong sum, or SyncBatchNorm differs from BatchNorm of the whole batch.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    place = torch.device(f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device)
    total = torch.full((1000,), float(rank + 1), device=place)
    dist.all_reduce(total)
    if not bool((total == size * (size + 1) / 2).all()):
        raise CheckFailed(f"all_reduce of 1 to {size} gives {total[0].item()}")
    large = torch.ones(_REDUCED_MB * 250_000, device=place)
    seconds = [_timed(lambda: dist.all_reduce(large)) for _ in range(4)][-1]
    rate = f"{_REDUCED_MB / 1000 / seconds:.1f} GB/s"
    text = f"{size} processes, {dist.get_backend()}: all_reduce of {_REDUCED_MB} MB at {rate}"
    if device == "cuda":
        text += f", SyncBatchNorm: {_check_sync_batchnorm(place, rank, size)}"
    if rank == 0:
        write_json(path, {"text": text})
    return 0


def gradients(
    model: nn.Module, device: torch.device, memory: torch.memory_format = torch.contiguous_format
) -> list[Tensor]:
    """Return the gradients of a model's parameters after a step on noise, in their own type."""
    dtype = next(model.parameters()).dtype
    images = _noise().to(device, dtype).contiguous(memory_format=memory)
    sum(value.square().mean() for value in model(images).values()).backward()
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


def agreement(found: list[Tensor], expected: list[Tensor], tolerance: float) -> str:
    """Return by how much tensors differ at most, relative to the largest value of each.

    A tensor whose values are a millionth of the largest of all is taken for zeros with rounding.

    Raises:
        CheckFailed: by more than the tolerance, or a value is not finite.
    """
    pairs = [(a.double().cpu(), b.double().cpu()) for a, b in zip(found, expected, strict=True)]
    floor = 1e-6 * max(float(b.abs().max()) for _, b in pairs) + 1e-30
    shares = [(a - b).abs().max() / b.abs().max().clamp(min=floor) for a, b in pairs]
    worst = float(torch.stack(shares).max())  # NaN if one is
    text = f"differs by {worst:.1e}"
    if not worst <= tolerance:
        raise CheckFailed(f"{text}, expected at most {tolerance:.0e}")
    return text


def _check_sync_batchnorm(place: torch.device, rank: int, size: int) -> str:
    rows = torch.randn(size, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    whole = nn.BatchNorm2d(3).double()(rows.flatten(0, 1))
    norm = nn.SyncBatchNorm(3).double().to(place)
    return agreement([norm(rows[rank].to(place))], [whole.unflatten(0, (size, 4))[rank]], 1e-8)


def _noise() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _timed(work: Callable[[], object]) -> float:
    for wait in (False, True):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if not wait:
            start = time.perf_counter()
            work()
    return time.perf_counter() - start


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.splitlines()[0].strip()
