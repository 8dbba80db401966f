"""Runs a function in one process and in two, which have a GPU each if there are."""

import functools
import socket
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils._pytree import tree_map_only

from tests.devices import on

DEVICES = {"gloo": "cpu", "nccl": "cuda"}
GPUS = torch.cuda.device_count()
NCCL = pytest.mark.skipif(GPUS < 2, reason=f"NCCL between two GPUs: this machine has {GPUS}")
BACKENDS = ["gloo", pytest.param("nccl", marks=[pytest.mark.gpu, NCCL])]


def one_and_two(
    step: Callable[[str, int, int], Any], names: Iterable[str], backend: str
) -> dict[str, tuple[Any, Any, Any]]:
    """Return ``step(name, 0, 1)`` here, and ``step(name, rank, 2)`` of both ranks, by name.

    See :func:`run_in_two`.
    """
    names = tuple(names)
    one, other = run_in_two(functools.partial(_all, step, names, 2), backend)
    whole = _placed(backend, _all, step, names, 1, 0)
    return {name: (whole[name], one[name], other[name]) for name in names}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_in_two(function: Callable[[int], Any], backend: str) -> list[Any]:
    """Return ``function(rank)`` of both ranks; it is pickled to processes that form a group.

    Its tensors are on the device of the backend, those returned on the CPU.
    """
    port = free_port()
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(_work, (port, backend, function, results), nprocs=2)
        return [results[rank] for rank in range(2)]


def _all(
    step: Callable[[str, int, int], Any], names: tuple[str, ...], world_size: int, rank: int
) -> dict[str, Any]:
    return {name: step(name, rank, world_size) for name in names}


def _placed(backend: str, function: Callable[..., Any], *args: Any) -> Any:
    with on(DEVICES[backend]):
        return tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), function(*args))


def _work(rank: int, port: int, backend: str, function: Callable[[int], Any], results) -> None:
    if backend == "nccl":
        torch.cuda.set_device(rank)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=2)
    results[rank] = _placed(backend, function, rank)
    dist.destroy_process_group()
