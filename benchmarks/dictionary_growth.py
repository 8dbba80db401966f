#!/usr/bin/env python3
"""How the part of a step that grows with the dictionary grows: by D, k, batch and processes.

The encoder is left out: features go in, and labels, losses, gradients, the exchange of keys and
enqueuing are timed, and memory is measured. Several processes run on this machine, a GPU each where
there are GPUs; each row is of process 0 in processes of its own, whose peak is that row's alone.

Example:
    python benchmarks/dictionary_growth.py --sizes 1024 4096 65536 --positives 5 20 --processes 1 2
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import time

import torch
from torch import Tensor, nn

from mls_d2.core.errors import UserError, run_tool
from mls_d2.run.hooks import peak_memory_mb
from mls_d2.run.launch import environments, join_processes
from mls_d2.run.spawn import run_processes
from pretrain.batchnorm import gather
from pretrain.methods.mls import MLS
from pretrain.methods.moco import MoCo


class Features(nn.Module):
    """A backbone that is done: its input is its output."""

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Return ``(N, d, 1, 1)`` as it came."""
        return {"res5": features}


def main() -> int:
    """Print a row for every combination, the smallest dictionary first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20]
    for name, default, text in (
        ("--sizes", sizes, "D"),
        ("--positives", [20], "k"),
        ("--batches", [32], "images of a process"),
        ("--processes", [1], "W"),
    ):
        parser.add_argument(name, type=int, nargs="+", default=default, help=text)
    parser.add_argument("--feature-dim", type=int, default=2048, help="d_g (default 2048)")
    parser.add_argument("--embedding-dim", type=int, default=256, help="d_z (default 256)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each (default 5)")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dims = f"d_g {args.feature_dim}, d_z {args.embedding_dim}"
    print(f"{dims}, {device}, {torch.get_num_threads()} threads among the processes")
    print(f"{'D':>8s} {'k':>4s} {'N':>5s} {'W':>3s} {'MoCo-v2 ms':>11s} {'MLS ms':>8s}", end="")
    print(f" {'tables MB':>10s} {'peak MB':>8s}", flush=True)
    every = itertools.product(sorted(args.sizes), args.positives, args.batches, args.processes)
    for size, k, batch, processes in every:
        code = in_processes(functools.partial(row, args, size, k, batch), processes)
        if code:
            return code
    return 0


def in_processes(work: functools.partial, count: int) -> int:
    """Run ``work()`` in that many new processes and return the exit code."""
    where = argparse.Namespace(num_gpus=count, num_machines=1, machine_rank=0, dist_url="auto")
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count))}
    told = [environment | threads for environment in environments(where)]
    return run_processes(functools.partial(join_processes, work, timeout_min=30), told)


def row(args: argparse.Namespace, size: int, k: int, batch: int) -> int:
    """Print what steps with one dictionary cost."""
    processes = torch.distributed.get_world_size()
    if size % (batch * processes):
        raise UserError(
            f"{processes} processes with {batch} images each do not divide D = {size}; change "
            "--batches, --processes or --sizes"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(torch.distributed.get_rank())
    shared = {
        "embedding_dim": args.embedding_dim,
        "dictionary_size": size,
        "temperature": 0.2,
        "momentum": 0.995,
    }
    projectors = [nn.Linear(args.feature_dim, args.embedding_dim) for _ in range(2)]
    methods = (
        MoCo(Features(), projectors[0], **shared),
        MLS(
            Features(),
            projectors[1],
            **shared,
            feature_dim=args.feature_dim,
            num_positives=k,
            loss_weight=0.5,
        ),
    )
    views = [torch.rand(batch, args.feature_dim, 1, 1, device=device) for _ in range(2)]
    times = [median_ms(method.to(device), views, args.steps) for method in methods]
    tables = sum(buffer.nbytes for buffer in methods[1].dictionary.buffers()) / 1e6
    if torch.distributed.get_rank() == 0:
        print(
            f"{size:8d} {k:4d} {batch:5d} {processes:3d} {times[0]:11.1f} {times[1]:8.1f} "
            f"{tables:10.0f} {peak_memory_mb():8.0f}",
            flush=True,
        )
    return 0


def median_ms(method: MoCo | MLS, views: list[Tensor], steps: int) -> float:
    """Return the median milliseconds of a step after two that are not timed."""
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        output = method(*views, epoch=1.0)
        torch.stack(list(output.losses.values())).sum().backward()
        method.enqueue({name: gather(rows) for name, rows in output.keys.items()})
        if views[0].is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[2:])


if __name__ == "__main__":
    run_tool(main)
