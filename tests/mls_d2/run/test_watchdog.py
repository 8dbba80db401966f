"""A dead, stopped, stuck or failed process ends the run, and the message names it."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from torch.utils.data import DataLoader

from mls_d2.core.errors import EXIT_LOST_PROCESS, UserError
from mls_d2.run import watchdog
from mls_d2.run.launch import launch
from mls_d2.run.loop import TrainingLoop
from mls_d2.run.signals import InterruptGuard
from mls_d2.run.watchdog import Progress, Starvation, State, Watch, Watchdog
from tests.two_processes import free_port

LOADER = "torch.utils.data.dataloader"


def make_watch(rank=1):
    watch = Watch(rank, silence_s=60, stall_s=600)
    watch.receive({index: State(beat=1, host=f"h{index}") for index in range(3)}, 0.0)
    return watch


def test_a_process_that_is_silent_too_long_is_named_and_no_other():
    watch = make_watch()
    for now in (30.0, 59.0):
        watch.receive({i: State(beat=int(now), host=f"h{i}", iteration=4) for i in (0, 1)}, now)
        assert watch.verdict(now) is None
    # The same beat again is not a report.
    watch.receive({2: State(beat=1, host="h2")}, 59.0)
    assert watch.verdict(60.0) is None
    verdict = watch.verdict(60.5)
    assert verdict.code == EXIT_LOST_PROCESS
    assert "process 2 on h2" in verdict.message
    assert "process 0" not in verdict.message
    # Process 0 keeps the reports: if it is lost, all are silent.
    message = make_watch().verdict(60.5).message
    assert "process 0 on h0" in message
    assert "process 2" not in message


def test_an_end_without_failure_is_no_reason_to_end():
    watch = make_watch()
    watch.receive({i: State(beat=2, host=f"h{i}", code=0) for i in (0, 2)}, 1.0)
    assert watch.verdict(1000.0) is None
    assert watch.all_ended()


def test_a_stuck_iteration_lists_the_place_of_every_process():
    watch = make_watch()
    for idle, ends in ((599.0, False), (601.0, True)):
        states = {i: State(int(idle), f"h{i}", 7, idle, f"place{i}") for i in range(2)}
        watch.receive(states | {2: State(int(idle), "h2")}, 500.0)
        assert bool(watch.verdict(501.0)) == ends
    assert watch.verdict(501.0).message.splitlines()[1:] == [
        "  process 0 on h0 (iteration 7 done, last in place0)",
        "  process 1 on h1 (iteration 7 done, last in place1)",
        "  process 2 on h2 (not training, last in other code)",
    ]


def test_a_process_without_batches_ends_before_the_iteration_takes_too_long():
    watch = make_watch()
    for starved, ends in ((59.0, False), (61.0, True)):
        watch.receive({1: State(int(starved), "h1", 7, starved, "place", starved)}, 1.0)
        assert bool(watch.verdict(2.0)) == ends
    assert "DATALOADER.NUM_WORKERS" in watch.verdict(2.0).message


def test_a_loader_starves_while_it_reads_nothing(monkeypatch):
    starvation = Starvation()
    for now, read, module, expected in (
        (100, 7, LOADER, 0),
        (105, 7, LOADER, 5),
        (112, 7, LOADER, 12),
        (114, 8, LOADER, 0),
        (120, 8, LOADER, 6),
        (140, 8, LOADER, 0),  # the process was stopped meanwhile
        (145, 8, LOADER, 5),
        (146, 8, "torch.optim", 0),
        (150, -1, LOADER, 0),  # no /proc
        (155, -1, LOADER, 0),
    ):
        monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda now=now: now))
        monkeypatch.setattr(watchdog, "_bytes_read", lambda read=read: read)
        monkeypatch.setattr(watchdog, "_frames", lambda module=module: iter([(module, "1")]))
        assert starvation.seconds() == expected


def test_after_a_broken_connection_the_lost_process_has_ten_seconds_to_report(monkeypatch):
    dog = Watchdog(stall_s=600)
    waits, ends = [], []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr(dog, "_end", ends.append)
    dog.end_after_lost_connection(RuntimeError("closed\nin pair.cc"))
    monkeypatch.undo()
    dog.stop(0)
    assert waits == [14]  # and two reports
    assert [end.message for end in ends] == ["lost the connection to another process: closed"]


def test_an_evaluation_between_two_iterations_may_take_any_time():
    progress = Progress()
    progress.note(3)
    with progress.paused():
        assert progress.iteration is None
    assert progress.iteration == 3


def test_a_report_that_does_not_end_does_not_abort_the_exit():
    code = """
import torch.distributed as dist
from mls_d2.run import watchdog

watchdog._GRACE_S = 0.1
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


class Stuck(watchdog.Watchdog):
    def _report(self):
        while True:
            store.set("0", "")


print("result", end="")
Stuck(stall_s=60).stop(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "result", "")


class Slow:
    """Images of which one takes ``seconds``: asleep, busy, or reading (and busy)."""

    def __init__(self, kind, seconds):
        self.kind, self.seconds = kind, seconds

    def __len__(self):
        return 3

    def __getitem__(self, index):
        end = time.monotonic() + self.seconds * (index == 1)
        while time.monotonic() < end:
            if self.kind == "asleep":
                time.sleep(1)
            elif self.kind == "reading":
                Path(__file__).read_bytes()
        return index


# What an image does, for how many seconds, and the number of workers.
LOADERS = {
    "stopped worker": ("asleep", 1000, 2),
    "slow read": ("asleep", 1000, 0),
    "looping worker": ("busy", 1000, 2),
    "slow images": ("reading", 6, 2),
}


class Loop(TrainingLoop):
    """Steps of a collective each; the process that ``trouble`` names fails at iteration 5."""

    def __init__(self, trouble):
        super().__init__(None, (), None)
        kind, rank = trouble.split("-")
        self.kind = kind if comm.get_rank() == int(rank) else ""

    def run_step(self):
        if self.iter == 5 and self.kind == "stuck":
            time.sleep(1000)
        if self.iter == 5 and self.kind in LOADERS:
            *slow, workers = LOADERS[self.kind]
            list(DataLoader(Slow(*slow), num_workers=workers))
            raise UserError("all batches came", code="bad-value")
        if self.iter == 5 and self.kind == "error":
            raise UserError("bad luck", code="bad-value")
        if self.iter == 5 and self.kind:
            os.kill(os.getpid(), getattr(signal, self.kind))
        if comm.get_world_size() > 1:
            dist.all_reduce(torch.ones(1))
        time.sleep(0.02)


def one_process(index, trouble, environments, folder, timeout_min):
    os.environ.update(environments[index])
    log = os.open(folder / f"{index}.err", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 2)
    sys.stderr = open(2, "w")  # noqa: SIM115 - pytest's is not a file

    def main(args):
        with InterruptGuard():
            Loop(trouble).train(0, 1000)

    args = argparse.Namespace(num_gpus=1, num_machines=1, timeout=timeout_min)
    code = launch(main, args, device="cpu")
    sys.stderr.flush()
    os._exit(code)


def run_processes_with(trouble, number, folder, timeout_min=0.05):
    """Run forked processes and return their exit codes and what they printed to stderr."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    environments = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
    # Forked, because a new process takes seconds to import torch.
    context = mp.start_processes(
        one_process,
        (trouble, environments, folder, timeout_min),
        nprocs=number,
        join=False,
        start_method="fork",
    )
    victim = int(trouble[-1])
    for rank, process in enumerate(context.processes):
        if number == 1 or rank != victim or not trouble.startswith("SIGSTOP"):
            process.join(timeout=60)
    for process in context.processes:
        process.kill()
        process.join()
    codes = [process.exitcode for process in context.processes]
    return codes, [(folder / f"{rank}.err").read_text() for rank in range(number)]


@pytest.mark.parametrize(
    ("trouble", "message", "code"),
    [
        ("SIGKILL-1", r"no report for .* process 1 on", EXIT_LOST_PROCESS),
        ("SIGKILL-0", r"no report for .* process 0 on", EXIT_LOST_PROCESS),
        ("SIGSTOP-1", r"no report for .* process 1 on", EXIT_LOST_PROCESS),
        ("SIGSTOP-0", r"no report for .* process 0 on", EXIT_LOST_PROCESS),
        ("error-1", r"process 1 on .* ended with exit code 2", 2),
        ("stuck-1", r"no iteration ended for[\s\S]*process 1 on .* \(iteration 4 done", 76),
    ],
)
def test_a_lost_process_ends_the_others_which_name_it(tmp_path, trouble, message, code):
    codes, errors = run_processes_with(trouble, 2, tmp_path)
    survivor = 0 if trouble.endswith("1") else 1
    assert codes[survivor] == code, errors
    assert "Traceback" not in errors[survivor]
    assert re.search(message, errors[survivor]), errors


def test_a_single_stuck_process_ends_and_reports_its_place(tmp_path):
    codes, errors = run_processes_with("stuck-0", 1, tmp_path)
    assert codes == [EXIT_LOST_PROCESS]
    assert re.search(r"no iteration ended for[\s\S]*process 0 .* \(iteration 4 done", errors[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "message", "code"),
    [
        ("stopped worker-0", "no batch came for 3 s", EXIT_LOST_PROCESS),
        ("slow read-0", "no batch came for 3 s", EXIT_LOST_PROCESS),
        # Busy for seconds.
        pytest.param(
            *("looping worker-0", "no batch came for 3 s", EXIT_LOST_PROCESS),
            marks=pytest.mark.full,
        ),
        pytest.param("slow images-0", "all batches came", 2, marks=pytest.mark.full),
    ],
)
def test_a_loader_that_reads_nothing_ends_the_run(tmp_path, monkeypatch, trouble, message, code):
    monkeypatch.setattr(watchdog, "SILENCE_S", 3.0)
    codes, errors = run_processes_with(trouble, 1, tmp_path, timeout_min=1)
    assert codes == [code], errors
    assert message in errors[0]
    assert "Traceback" not in errors[0]
