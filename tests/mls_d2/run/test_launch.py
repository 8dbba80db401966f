"""Processes are started as asked for, and their failures reach the user as one message."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from mls_d2.core.errors import EXIT_LOST_PROCESS, EXIT_PREEMPTED
from mls_d2.run.launch import join_processes, launch, tool_parser


def parse(*words):
    return tool_parser("does", "examples").parse_args(["--config-file", "x.yaml", *words])


def test_the_parser_has_the_arguments_of_detectron2s_tools():
    args = parse("--resume", "--num-gpus", "2", "SOLVER.BASE_LR", "0.1", "SEED", "3")
    assert (args.config_file, args.resume, args.num_gpus) == ("x.yaml", True, 2)
    assert args.opts == ["SOLVER.BASE_LR", "0.1", "SEED", "3"]
    assert parse().opts == []


@pytest.mark.parametrize("num_gpus", ["0", "1"])
def test_one_process_runs_in_place_and_its_code_is_returned(num_gpus):
    seen = []

    def main(args):
        seen.append((args.config_file, os.getpid()))
        return 3

    assert launch(main, parse("--num-gpus", num_gpus)) == 3
    assert seen == [("x.yaml", os.getpid())]
    assert launch(lambda _: None, parse()) == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--num-gpus", "64"),
        ("--num-machines", "2"),
        ("--num-machines", "2", "--dist-url", "host:1"),
        ("--num-machines", "2", "--dist-url", "tcp://h:1", "--machine-rank", "2"),
        ("--timeout", "0"),
    ],
)
def test_options_that_cannot_work_are_refused(words, monkeypatch, refuses):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with refuses("bad-option"):
        launch(lambda _: 0, parse(*words))


@pytest.mark.parametrize(
    ("device", "gpus", "backend", "chosen"),
    [
        ("cuda", 8, "nccl", [3]),
        ("cuda:0", 2, "nccl", [1]),
        ("cuda", 1, "nccl", [0]),  # A launcher shows each process its own GPU alone.
        ("cuda", 0, "gloo", []),
        ("cpu", 8, "gloo", []),
    ],
)
def test_a_process_takes_its_gpu_and_nccl_if_it_computes_there(
    monkeypatch, device, gpus, backend, chosen
):
    class Joined(Exception):
        pass

    def join(name, **_):
        raise Joined(name)

    found = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", join)
    with pytest.raises(Joined, match=backend):
        join_processes(lambda: 0, timeout_min=1, device=device)
    assert found == chosen


# Steps of a collective until a signal comes, which process 1 may send to itself or to its parent.
PROGRAM = """
import functools, os, signal, sys, threading, time
import torch, torch.distributed as dist
import detectron2.utils.comm as comm
from mls_d2.core.errors import run_tool
from mls_d2.run import launch
from mls_d2.run.signals import InterruptGuard
from mls_d2.run.spawn import run_processes

def main():
    facts = (comm.get_world_size(), comm.get_local_size(), comm.get_local_rank())
    assert facts == (2, 2, comm.get_rank()), facts
    assert dist.get_backend() == "gloo"
    # Python that ends while such a thread runs aborts.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threading.Thread(target=lambda: [store.set("", "") for _ in iter(int, 1)], daemon=True).start()
    with InterruptGuard() as interrupt:
        for step in range(400):
            dist.all_reduce(torch.ones(1))
            if step == 5 and comm.get_rank() == 1:
                victim = os.getpid() if sys.argv[1] == "own" else os.getppid()
                os.kill(victim, getattr(signal, sys.argv[2]))
            number = interrupt.agreed()
            if number:
                open(f"saved-{comm.get_rank()}-{number}", "w")
                interrupt.raise_if_agreed()
            time.sleep(0.02)

def go():
    # As launch does, without GPUs.
    args = launch.tool_parser("", "").parse_args(["--config-file", "x", "--num-gpus", "2"])
    join = functools.partial(launch.join_processes, main, timeout_min=0.5)
    return run_processes(join, launch.environments(args))

if __name__ == "__main__":
    run_tool(go)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "name", "code", "message"),
    [
        pytest.param(
            *("own", "SIGKILL", EXIT_LOST_PROCESS),
            "process 1 of this machine was killed by SIGKILL",
            marks=pytest.mark.full,
        ),
        ("parent", "SIGUSR1", EXIT_PREEMPTED, "SIGUSR1: stopped after writing a checkpoint"),
    ],
)
def test_spawned_processes_get_signals_save_and_end_together(
    tmp_path, request, victim, name, code, message
):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(request.config.rootpath)
    words = [sys.executable, "-W", "ignore", "program.py", victim, name]
    done = subprocess.run(
        words, env=environment, cwd=tmp_path, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    saved = sorted(path.name for path in tmp_path.glob("saved-*"))
    number = getattr(signal, name)
    assert saved == ([] if victim == "own" else [f"saved-0-{number:d}", f"saved-1-{number:d}"])
