"""Runs a function in two gloo processes."""

import socket
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp


def run_in_two(function: Callable[[int], Any]) -> list[Any]:
    """Return ``function(rank)`` of both ranks; it is pickled to processes that form a group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(_work, (port, function, results), nprocs=2)
        return [results[rank] for rank in range(2)]


def _work(rank: int, port: int, function: Callable[[int], Any], results) -> None:
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    results[rank] = function(rank)
    dist.destroy_process_group()
