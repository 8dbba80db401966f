"""Processes are started as asked for, and their failures reach the user as one message."""

import os
import subprocess
import sys

import pytest

from mls_d2.core.errors import UserError
from mls_d2.run.launch import launch, tool_parser

PARSER_WORDS = ["--config-file", "x.yaml"]


def parse(*words):
    return tool_parser("does", "examples").parse_args([*PARSER_WORDS, *words])


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


def test_more_gpus_than_there_are_is_a_user_error():
    with pytest.raises(UserError, match="--num-gpus 64, but this machine has"):
        launch(lambda _: 0, parse("--num-gpus", "64"))


def test_several_machines_need_an_address(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UserError, match="--dist-url"):
        launch(lambda _: 0, parse("--num-machines", "2"))


PROGRAM = """
import argparse, sys, torch, torch.distributed as dist
import detectron2.utils.comm as comm
from mls_d2.run.signals import InterruptGuard
from mls_d2.run.launch import launch

def main(args):
    total = torch.tensor([float(comm.get_rank() + 1)])
    dist.all_reduce(total)
    interrupt = InterruptGuard()
    interrupt.requested = 10 * comm.get_rank()
    facts = (comm.get_world_size(), comm.get_local_size(), comm.get_local_rank(), int(total))
    agreed = interrupt.agreed()
    for rank in range(2):
        comm.synchronize()
        if comm.get_rank() == rank:
            print(rank, *facts, agreed, flush=True)
    return 5 if comm.get_rank() == 0 else 0

sys.exit(launch(main, argparse.Namespace(num_gpus=1, num_machines=1, timeout=1.0)))
"""


@pytest.mark.slow
def test_torchruns_environment_makes_a_group_and_an_interruption_is_agreed_upon(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    processes = []
    for rank in range(2):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29000 + os.getpid() % 2000}
        told |= {"OMP_NUM_THREADS": 1, "CUDA_VISIBLE_DEVICES": ""}
        environment = os.environ | {name: str(value) for name, value in told.items()}
        words = [sys.executable, "-W", "ignore", str(tmp_path / "program.py")]
        processes.append(
            subprocess.Popen(words, env=environment, text=True, stdout=subprocess.PIPE)
        )
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert outputs == ["0 2 2 0 3 10\n", "1 2 2 1 3 10\n"]
    assert [process.returncode for process in processes] == [5, 0]
