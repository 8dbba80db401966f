#!/usr/bin/env python3
"""The part of a step that grows with the dictionary, by D, k, batch and processes.

The encoder is left out: labels, losses, gradients, the exchange of keys and enqueuing of features
are timed, and memory is measured. Several processes run on this machine, with one GPU each if there
are GPUs. Each row is of process 0 in new processes, so that their peak is that of the row.
--sizes are D, --positives k, --batches images per process, --processes W.

Example:
    python benchmarks/dictionary_growth.py --sizes 1024 4096 65536 --positives 5 20 --processes 1 2
"""

import argparse
import functools
import itertools

import torch
from timing import parse, take_turns
from torch import Tensor, nn

from mls_d2.core.errors import UserError, run_tool
from mls_d2.run.hooks import peak_memory_mb
from mls_d2.run.launch import environments, join_processes
from mls_d2.run.spawn import run_processes
from pretrain.batch import whole_images
from pretrain.batchnorm import gather
from pretrain.encoder import Encoder
from pretrain.methods.mls import MLS
from pretrain.methods.moco import MoCo


class Features(nn.Module):
    """A backbone whose output is its input."""

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Return ``(N, d, 1, 1)`` as it came."""
        return {"res5": features}


def main() -> int:
    """Print a row for every combination, the smallest dictionary first."""
    sizes = [1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20]
    swept = {"sizes": sizes, "positives": [20], "batches": [32], "processes": [1]}
    args = parse(__doc__, **swept, feature_dim=2048, embedding_dim=256, steps=5)
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
    if size < batch * processes:
        raise UserError(
            f"{processes} processes with {batch} images each do not fit into D = {size}; change "
            "--batches, --processes or --sizes",
            code="bad-value",
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(torch.distributed.get_rank())
    shared = {"dictionary_size": size, "projector_out_dim": args.embedding_dim}
    methods = (
        MoCo(Features(), args.feature_dim, MoCo.Options(**shared)),
        MLS(Features(), args.feature_dim, MLS.Options(**shared, k=k)),
    )
    for method in methods:
        method.set_encoder(Encoder(Features(), nn.Linear(args.feature_dim, args.embedding_dim)))
    views = [torch.rand(batch, args.feature_dim, 1, 1, device=device) for _ in range(2)]
    work = {
        type(method).__name__: functools.partial(step, method.to(device), views)
        for method in methods
    }
    times = take_turns(work, rounds=args.steps, warmup=2)
    base_ms, mls_ms = (1000 * times.median(name) for name in work)
    tables = sum(buffer.nbytes for buffer in methods[1].dictionary.buffers()) / 1e6
    if torch.distributed.get_rank() == 0:
        print(
            f"{size:8d} {k:4d} {batch:5d} {processes:3d} {base_ms:11.1f} {mls_ms:8.1f} "
            f"{tables:10.0f} {peak_memory_mb():8.0f}",
            flush=True,
        )
    return 0


def step(method: MoCo | MLS, views: list[Tensor]) -> None:
    """Take one step, without the optimizer."""
    output = method(whole_images(views, epoch=1.0))
    torch.stack(list(output.weighted().values())).sum().backward()
    method.enqueue({name: gather(rows) for name, rows in output.keys.items()})


if __name__ == "__main__":
    run_tool(main)
