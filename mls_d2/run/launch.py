"""Command lines and processes: one process, several GPUs, or what torchrun started."""

import argparse
import datetime
import functools
import os
import socket
import urllib.parse
from collections.abc import Callable

import detectron2.utils.comm as comm
import torch
import torch.distributed as dist

from mls_d2.core.errors import UserError
from mls_d2.run.spawn import run_processes
from mls_d2.run.watchdog import run_watched

Main = Callable[[argparse.Namespace], int | None]


def tool_parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of Detectron2's tools; ``epilog`` holds examples."""
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = "YAML config, or the name of one of the project's, such as mls_quick"
    parser.add_argument("--config-file", required=True, metavar="FILE", help=text)
    text = "continue from the last checkpoint in OUTPUT_DIR, if there is one"
    parser.add_argument("--resume", action="store_true", help=text)
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs per machine (default 1)")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="which of them this one is")
    text = "address of the first machine, e.g. tcp://HOST:PORT; needed for several machines"
    parser.add_argument("--dist-url", default="auto", help=text)
    text = "end the run if an iteration takes longer (default 30)"
    parser.add_argument("--timeout", type=float, default=30.0, metavar="MINUTES", help=text)
    text = "config keys to change"
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=text)
    return parser


def launch(main: Main, args: argparse.Namespace, *, device: str = "cuda") -> int:
    """Run ``main(args)`` in every process of the run and return the exit code.

    One process runs in place. ``--num-gpus`` and ``--num-machines`` start processes. If an
    environment such as torchrun's describes this process as one of several, it joins the others.

    Args:
        main: what each process runs.
        args: of :func:`tool_parser`.
        device: ``MODEL.DEVICE`` of the config.

    Raises:
        UserError: more GPUs asked for than there are, or no address for several machines.
    """
    if not args.timeout > 0:
        raise UserError(f"--timeout must be > 0 minutes, got {args.timeout}", code="bad-option")
    run = functools.partial(main, args)
    join = functools.partial(join_processes, run, timeout_min=args.timeout, device=device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ:
        return join()
    if args.num_gpus * args.num_machines <= 1:
        return run_watched(run, timeout_s=60 * args.timeout)
    _check_processes(args)
    return run_processes(join, environments(args))


def join_processes(
    main: Callable[[], int | None], *, timeout_min: float, device: str = "cuda"
) -> int:
    """Run ``main`` as one of the processes that the environment describes; return its exit code.

    Processes that wait ``timeout_min`` minutes for another one end. ``device`` is the one that they
    compute on; without a GPU it is the CPU, which uses gloo.
    """
    local_rank = int(os.environ["LOCAL_RANK"])
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpu = device.startswith("cuda") and torch.cuda.is_available()
    if gpu:
        # A launcher may make a single GPU visible to each process.
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    # The watchdog can name the missing process, so it is the first to give up.
    timeout = datetime.timedelta(minutes=timeout_min + 1)
    dist.init_process_group("nccl" if gpu else "gloo", init_method="env://", timeout=timeout)
    for first in range(0, dist.get_world_size(), local_size):
        ranks = list(range(first, first + local_size))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            # The same attribute in Detectron2 0.6 and later; 0.6 has no function for it.
            comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()
    code = run_watched(main, address=os.environ["MASTER_ADDR"], timeout_s=60 * timeout_min)
    if not code:
        # Without all the others it would wait for them.
        dist.destroy_process_group()
    return code


def environments(args: argparse.Namespace) -> list[dict[str, str]]:
    """Return the variables that torchrun would set for each process of this machine.

    Raises:
        UserError: ``--dist-url`` is not ``tcp://HOST:PORT``.
    """
    host, port = "127.0.0.1", 0
    if args.dist_url != "auto":
        parts = urllib.parse.urlsplit(args.dist_url)
        if parts.scheme != "tcp" or not parts.hostname or not parts.port:
            raise UserError(
                f"--dist-url must be tcp://HOST:PORT, got '{args.dist_url}'", code="bad-option"
            )
        host, port = parts.hostname, parts.port
    shared = {
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port or _free_port()),
        "WORLD_SIZE": str(args.num_gpus * args.num_machines),
        "LOCAL_WORLD_SIZE": str(args.num_gpus),
    }
    first = args.machine_rank * args.num_gpus
    return [
        shared | {"RANK": str(first + local), "LOCAL_RANK": str(local)}
        for local in range(args.num_gpus)
    ]


def _check_processes(args: argparse.Namespace) -> None:
    found = torch.cuda.device_count()
    if args.num_gpus > found:
        raise UserError(
            f"--num-gpus {args.num_gpus}, but this machine has {found}; "
            f"use --num-gpus {max(found, 1)}",
            code="bad-option",
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError(
            "several machines need --dist-url tcp://HOST:PORT of the first of them",
            code="bad-option",
        )
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank must be in [0, {args.num_machines}), got {args.machine_rank}",
            code="bad-option",
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
