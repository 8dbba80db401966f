"""Command lines and processes: one process, several GPUs, or what torchrun started."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

import detectron2.engine
import detectron2.utils.comm as comm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mls_d2.errors import UserError

Main = Callable[[argparse.Namespace], int | None]


def tool_parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of Detectron2's tools.

    Args:
        description: one sentence: what the tool does.
        epilog: examples, shown as they are.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML config")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in OUTPUT_DIR, where there is one",
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs per machine (default 1)")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="which of them this one is")
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="where the processes meet, e.g. tcp://HOST:PORT; needed for several machines",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to change"
    )
    return parser


def launch(main: Main, args: argparse.Namespace) -> int:
    """Run ``main(args)`` in every process of the run and return the exit code.

    One process runs in place. ``--num-gpus`` and ``--num-machines`` start processes as Detectron2
    does. Under torchrun its environment decides, and gloo is used where there is no GPU.

    Raises:
        UserError: more GPUs asked for than there are, or no address for several machines.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ:
        return _run_under_torchrun(main, args)
    num_processes = args.num_gpus * args.num_machines
    if num_processes <= 1:
        return main(args) or 0
    _check_processes(args)
    try:
        detectron2.engine.launch(
            _Worker(main),
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except mp.ProcessExitedException as error:
        # The process that failed has already said why. Negative codes are those of signals.
        return error.exit_code if error.exit_code > 0 else 128 - error.exit_code
    return 0


class _Worker:
    """Runs main in a spawned process; a class because it has to be picklable."""

    def __init__(self, main: Main) -> None:
        self._main = main

    def __call__(self, args: argparse.Namespace) -> None:
        try:
            code = self._main(args)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            code = 2
        except KeyboardInterrupt:
            code = 130
        if code:
            # torch would otherwise print a traceback for an error and hide an interruption.
            sys.exit(code)


def _check_processes(args: argparse.Namespace) -> None:
    found = torch.cuda.device_count()
    if args.num_gpus > found:
        raise UserError(
            f"--num-gpus {args.num_gpus}, but this machine has {found}; "
            f"use --num-gpus {max(found, 1)}"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError("several machines need --dist-url tcp://HOST:PORT of the first of them")


def _run_under_torchrun(main: Main, args: argparse.Namespace) -> int:
    local_rank = int(os.environ["LOCAL_RANK"])
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if gpu else "gloo", init_method="env://")
    try:
        for first in range(0, dist.get_world_size(), local_size):
            ranks = list(range(first, first + local_size))
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                # The same attribute in Detectron2 0.6 and later; there is no function in 0.6.
                comm._LOCAL_PROCESS_GROUP = group
        comm.synchronize()
        return main(args) or 0
    finally:
        dist.destroy_process_group()
