"""Runs a function in two processes: on the CPU with gloo, for tests on GPUs on two with NCCL."""

import contextlib
import functools
import socket
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils._pytree import tree_map_only

from tests.devices import OnDevice


def run_in_two(function: Callable[[int], Any]) -> list[Any]:
    """Return ``function(rank)`` of both ranks; it is pickled to processes that form a group."""
    on_gpus = torch.empty(0).is_cuda and torch.cuda.device_count() > 1
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(_work, (port, function, results, on_gpus), nprocs=2)
        return [results[rank] for rank in range(2)]


def halves(step: Callable[[str, int, int], Any], names: Iterable[str]) -> dict[str, list[Any]]:
    """Return ``step(name, rank, 2)`` of both ranks by name."""
    found = run_in_two(functools.partial(_all, step, tuple(names)))
    return {name: [part[name] for part in found] for name in found[0]}


def _all(step: Callable[[str, int, int], Any], names: tuple[str, ...], rank: int) -> dict[str, Any]:
    return {name: step(name, rank, 2) for name in names}


def _work(rank: int, port: int, function: Callable[[int], Any], results, on_gpus: bool) -> None:
    address, backend = f"tcp://127.0.0.1:{port}", "nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=2)
    with contextlib.ExitStack() as stack:
        if on_gpus:
            torch.cuda.set_device(rank)
            stack.enter_context(OnDevice(torch.device("cuda", rank)))
        results[rank] = tree_map_only(torch.Tensor, torch.Tensor.cpu, function(rank))
    dist.destroy_process_group()
