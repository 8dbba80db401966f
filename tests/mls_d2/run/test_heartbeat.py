"""A dead, stopped, stuck or failed process ends the run, and the message names it."""

import os
import re
import socket
import subprocess
import sys

import pytest

from mls_d2.core.errors import EXIT_LOST_PROCESS
from mls_d2.run.watchdog import State, Watch


def make_watch(rank=1, **states):
    watch = Watch(rank, silence_s=60, stall_s=600)
    watch.hear({index: State(beat=1, host=f"h{index}") for index in range(3)}, 0.0)
    return watch


def test_whoever_is_silent_too_long_is_named_and_no_one_else():
    watch = make_watch()
    for now in (30.0, 59.0):
        watch.hear({i: State(beat=int(now), host=f"h{i}", iteration=4) for i in (0, 1)}, now)
        assert watch.verdict(now) is None
    # The same beat again is no news.
    watch.hear({2: State(beat=1, host="h2")}, 59.0)
    assert watch.verdict(60.0) is None
    verdict = watch.verdict(60.5)
    assert verdict.code == EXIT_LOST_PROCESS
    assert "process 2 on h2" in verdict.message
    assert "process 0" not in verdict.message


def test_without_process_0_no_one_is_heard_of_and_it_alone_is_named():
    verdict = make_watch().verdict(61.0)
    assert "process 0 on h0" in verdict.message
    assert "process 2" not in verdict.message


def test_an_end_without_failure_is_no_reason_to_end():
    watch = make_watch()
    watch.hear({i: State(beat=2, host=f"h{i}", code=0) for i in (0, 2)}, 1.0)
    assert watch.verdict(1000.0) is None
    assert watch.all_ended()


def test_a_failure_elsewhere_ends_this_process_with_the_same_code_after_a_moment():
    watch = make_watch()
    watch.hear({2: State(beat=2, host="h2", code=2)}, 1.0)
    assert watch.verdict(2.0) is None
    verdict = watch.verdict(5.0)
    assert (verdict.code, verdict.message) == (2, "process 2 on h2 ended with exit code 2")


def test_a_stuck_iteration_lists_where_everyone_is():
    watch = make_watch()
    for idle, ends in ((599.0, False), (601.0, True)):
        states = {
            i: State(int(idle), f"h{i}", 7, idle, f"place{i}") if i < 2 else State(int(idle), "h2")
            for i in range(3)
        }
        watch.hear(states, 500.0)
        assert bool(watch.verdict(501.0)) == ends
    assert watch.verdict(501.0).message.splitlines()[1:] == [
        "  process 0 on h0 (iteration 7 done, last seen in place0)",
        "  process 1 on h1 (iteration 7 done, last seen in place1)",
        "  process 2 on h2 (not training, last seen in other code)",
    ]


# Steps of a collective each; the process that TROUBLE names gets into trouble at iteration 5.
PROGRAM = """
import argparse, functools, os, signal, sys, time
import torch, torch.distributed as dist
import detectron2.utils.comm as comm
from detectron2.engine import TrainerBase
from mls_d2.run.signals import InterruptGuard, train_guarded
from mls_d2.run.watchdog import ReportProgress
from mls_d2.run import launch
from mls_d2.run.spawn import run_processes
from mls_d2.core.errors import UserError, run_tool

class Loop(TrainerBase):
    def run_step(self):
        kind, rank = os.environ["TROUBLE"].split("-")
        if self.iter == 5 and comm.get_rank() == int(rank):
            if kind == "stuck":
                time.sleep(1000)
            if kind == "error":
                raise UserError("bad luck")
            os.kill(os.getpid(), getattr(signal, kind))
        dist.all_reduce(torch.ones(1))
        time.sleep(0.02)

def main(args):
    loop = Loop()
    loop.register_hooks([ReportProgress()])
    print("go", flush=True)
    with InterruptGuard() as interrupt:
        train_guarded(lambda: loop.train(0, 1000), relief="")

def go():
    args = argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")
    args.timeout = float(os.environ["MINUTES"])
    if "RANK" in os.environ:
        return launch.launch(main, args)
    # As launch does, without GPUs.
    run = functools.partial(main, args)
    join = functools.partial(launch.join_processes, run, timeout_min=args.timeout)
    return run_processes(join, launch.environments(args))

if __name__ == "__main__":
    run_tool(go)
"""


def start(tmp_path, how, trouble, minutes):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    common = {"TROUBLE": trouble, "MINUTES": minutes, "OMP_NUM_THREADS": "1"}
    common |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    if how == "spawn":
        told = [common]
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        common |= {"LOCAL_WORLD_SIZE": "2"}
        told = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    return [
        subprocess.Popen(
            [sys.executable, str(path)],
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in told
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "trouble", "survivor_says", "code"),
    [
        ("env", "SIGKILL-1", "nothing was heard for .* of process 1 on", EXIT_LOST_PROCESS),
        ("env", "SIGKILL-0", "nothing was heard for .* of process 0 on", EXIT_LOST_PROCESS),
        ("env", "SIGSTOP-1", "nothing was heard for .* of process 1 on", EXIT_LOST_PROCESS),
        ("env", "SIGSTOP-0", "nothing was heard for .* of process 0 on", EXIT_LOST_PROCESS),
        ("env", "error-1", "process 1 on .* ended with exit code 2", 2),
        ("spawn", "SIGKILL-1", "process 1 of this machine was killed by SIGKILL", 76),
        ("spawn", "SIGSTOP-1", "nothing was heard for .* of process 1 on", EXIT_LOST_PROCESS),
        ("spawn", "error-1", "error: bad luck", 2),
    ],
)
def test_a_lost_process_ends_the_others_who_name_it(tmp_path, how, trouble, survivor_says, code):
    processes = start(tmp_path, how, trouble, "0.08")
    survivor = processes[0] if how == "spawn" or trouble.endswith("1") else processes[1]
    try:
        error = survivor.communicate(timeout=90)[1]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert survivor.returncode == code, error
    assert "Traceback" not in error
    assert re.search(survivor_says, error), error


@pytest.mark.slow
def test_a_stuck_process_is_shown_where_it_is_stuck(tmp_path):
    processes = start(tmp_path, "env", "stuck-1", "0.08")
    try:
        errors = [process.communicate(timeout=90)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert {process.returncode for process in processes} == {EXIT_LOST_PROCESS}
    assert "no iteration ended for" in errors[0] + errors[1]
