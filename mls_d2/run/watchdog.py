"""Every process watches itself and the others, and ends if one of them is lost or stuck.

Without it the others wait for a dead or hung process until their collective times out, and their
error does not name that process.
"""

import atexit
import contextlib
import dataclasses
import json
import multiprocessing
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch.distributed as dist
from detectron2.utils import comm

from mls_d2.core.errors import EXIT_LOST_PROCESS, exit_code_of
from mls_d2.run.failures import is_lost_connection

# How long a process may send nothing, in seconds; less after a connection broke.
SILENCE_S = 60.0
_SUSPECT_S = 10.0
# How long a process may run on after another one failed, in seconds: it may be failing, too.
_GRACE_S = 3.0
_PACKAGES = ("mls_d2", "pretrain")
_LOADER = "torch.utils.data.dataloader"


@dataclasses.dataclass(frozen=True)
class State:
    """What a process reports."""

    beat: int  # grows with every report
    host: str  # name of its machine
    iteration: int | None = None  # the last complete one; None outside of training
    idle_s: float = 0.0  # seconds since then
    place: str = ""  # line of this project at which its main thread is
    starved_s: float = 0.0  # seconds for which it has waited for a batch while no data were read
    code: int | None = None  # its exit code, once it has ended


class Verdict(NamedTuple):
    """Why this process has to end, and with which exit code."""

    message: str
    code: int = EXIT_LOST_PROCESS


class Watch:
    """Decides from the states of all processes whether this one may run on.

    A process may send nothing for ``silence_s`` seconds, wait as long for a batch while no data
    are read, and an iteration may take ``stall_s`` seconds.
    """

    def __init__(self, rank: int, *, silence_s: float, stall_s: float) -> None:
        self.silence_s = silence_s
        self._rank, self._stall_s = rank, stall_s
        self._states: dict[int, State] = {}
        self._received: dict[int, float] = {}

    def receive(self, states: dict[int, State], now: float) -> None:
        """Note the states of all processes as they were read at ``now``, in seconds."""
        for rank, state in states.items():
            known = self._states.get(rank)
            if known is None or known.beat != state.beat:
                self._states[rank], self._received[rank] = state, now

    def all_ended(self) -> bool:
        """Whether all other processes have reported that they ended."""
        return all(s.code is not None for rank, s in self._states.items() if rank != self._rank)

    def verdict(self, now: float) -> Verdict | None:
        """Return why this process has to end at ``now``, or None."""
        quiet = {rank: now - then for rank, then in self._received.items() if rank != self._rank}
        for rank, seconds in quiet.items():
            code = self._states[rank].code
            if code and seconds > _GRACE_S:
                return Verdict(f"{self._name(rank)} ended with exit code {code}", code)
        # All reports are stored in process 0: if it is lost, all others are silent, too.
        running = [rank for rank in sorted(quiet) if self._states[rank].code is None]
        silent = [rank for rank in running if quiet[rank] > self.silence_s]
        if silent:
            lost = [0] if 0 in silent else silent
            listed = "; ".join(self._describe(rank) for rank in lost)
            seconds = max(quiet[rank] for rank in lost)
            return Verdict(f"no report for {seconds:.0f} s (killed, stopped or cut off): {listed}")
        own = self._states.get(self._rank)
        if own and own.starved_s > self.silence_s:
            return Verdict(
                f"no batch came for {own.starved_s:.0f} s, and the data loader read no data: a "
                "worker was stopped or is caught in one image, or a disk or network does not "
                "answer. Check where the data lie, or set DATALOADER.NUM_WORKERS 0; then continue "
                f"with --resume: {self._describe(self._rank)}"
            )
        if own and own.iteration is not None and own.idle_s > self._stall_s:
            listed = "\n  ".join(self._describe(rank) for rank in sorted(self._states))
            return Verdict(f"no iteration ended for {own.idle_s:.0f} s:\n  {listed}")
        return None

    def _name(self, rank: int) -> str:
        return f"process {rank} on {self._states[rank].host}"

    def _describe(self, rank: int) -> str:
        state = self._states[rank]
        done = "not training" if state.iteration is None else f"iteration {state.iteration} done"
        return f"{self._name(rank)} ({done}, last in {state.place or 'other code'})"


class Progress:
    """How far the training of this process is."""

    def __init__(self) -> None:
        self.iteration: int | None = None
        self.since = 0.0

    def note(self, iteration: int | None) -> None:
        """Note the iteration that has just ended; None outside of training."""
        self.iteration, self.since = iteration, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Allow the block any time, for example an evaluation between two iterations."""
        iteration = self.iteration
        self.note(None)
        yield
        self.note(iteration)


progress = Progress()


class Starvation:
    """For how long the main thread has waited in a data loader that read no data.

    Each image is read before it is decoded, so a loader that is slow still reads. One that does
    not is stuck, whether it sleeps or computes.
    """

    def __init__(self) -> None:
        self._since = self._looked = 0.0
        self._read = 0

    def seconds(self) -> float:
        """Return the seconds up to now; 0 if it does not wait, or on systems without /proc."""
        now, read = time.monotonic(), _bytes_read()
        waits = any(name == _LOADER for name, _ in _frames())
        # After a long pause between two looks the whole process was stopped, e.g. by Ctrl-Z.
        if read != self._read or read < 0 or not waits or now - self._looked > _SUSPECT_S:
            self._since, self._read = now, read
        self._looked = now
        return now - self._since


class Watchdog:
    """Threads of one process that report to the others and end it if :class:`Watch` has a reason.

    If there are several processes, all of them make one and all of them stop it (collective).
    ``address`` is a name or number by which all of them reach process 0.
    """

    def __init__(self, address: str = "", *, silence_s: float = SILENCE_S, stall_s: float) -> None:
        self._rank, self._size = comm.get_rank(), comm.get_world_size()
        self._watch = Watch(self._rank, silence_s=silence_s, stall_s=stall_s)
        self._lock = threading.Lock()
        self._period = min(2.0, silence_s / 5)
        self._beat = 0
        self._code: int | None = None
        self._starvation = Starvation()
        self._ended = threading.Event()
        self._store = _open_store(address, main=self._rank == 0) if self._size > 1 else None
        self._send()
        comm.synchronize()  # so that there is a state of every process
        self._receive()
        self._reporter = threading.Thread(target=self._report, name="reporter", daemon=True)
        self._reporter.start()
        threading.Thread(target=self._judge, name="watchdog", daemon=True).start()

    def stop(self, code: int) -> None:
        """Report to the others that this process ends with an exit code."""
        self._code = code
        self._ended.set()
        self._reporter.join(2 * _GRACE_S)
        # The reports are stored in process 0, so it leaves last.
        deadline = time.monotonic() + 2 * _GRACE_S
        while self._rank == 0 and not self._watch.all_ended() and time.monotonic() < deadline:
            time.sleep(self._period / 10)
            with contextlib.suppress(Exception):
                self._receive()
        if self._reporter.is_alive():
            leave(code)

    def end_after_lost_connection(self, error: Exception) -> NoReturn:
        """End this process, naming the one that a broken connection led to if that shows."""
        self._watch.silence_s = min(self._watch.silence_s, _SUSPECT_S)
        time.sleep(self._watch.silence_s + 2 * self._period)  # meanwhile a verdict may end it
        first_line = str(error).partition("\n")[0]
        self._end(Verdict(f"lost the connection to another process: {first_line}"))

    def _report(self) -> None:
        while not self._ended.wait(self._period):
            # A broken store shows as the silence of process 0, which keeps it.
            with contextlib.suppress(Exception):
                self._send()
                self._receive()
        with contextlib.suppress(Exception):
            self._send()

    def _judge(self) -> None:
        while not self._ended.wait(self._period / 2):
            with self._lock:
                verdict = self._watch.verdict(time.monotonic())
            if verdict:
                self._end(verdict)

    def _end(self, verdict: Verdict) -> NoReturn:
        sys.stderr.write(f"error: process {self._rank} ends: {verdict.message}\n")
        sys.stderr.flush()
        self._code = verdict.code
        self._ended.set()
        self._reporter.join(self._period)
        for worker in multiprocessing.active_children():
            worker.kill()  # A stuck one would outlive this process.
        # The main thread waits in a collective or for data, where no exception reaches it.
        os._exit(verdict.code)

    def _send(self) -> None:
        self._beat += 1
        self._state = State(
            beat=self._beat,
            host=socket.gethostname(),
            iteration=progress.iteration,
            idle_s=time.monotonic() - progress.since,
            place=_place(),
            starved_s=self._starvation.seconds(),
            code=self._code,
        )
        if self._store is not None:
            self._store.set(str(self._rank), json.dumps(dataclasses.asdict(self._state)))

    def _receive(self) -> None:
        states = {self._rank: self._state}
        if self._store is not None:
            texts = self._store.multi_get([str(rank) for rank in range(self._size)])
            states = {rank: State(**json.loads(text)) for rank, text in enumerate(texts)}
        with self._lock:
            self._watch.receive(states, time.monotonic())


def leave(code: int) -> NoReturn:
    """Run the exit handlers and end this process without Python's own shutdown.

    That aborts (SIGABRT) if a C++ thread, of a store or of a process group, needs Python meanwhile.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def run_watched(main: Callable[[], int | None], *, address: str = "", timeout_s: float) -> int:
    """Run ``main``, as all processes of the run do, and return the exit code; nothing is raised.

    ``address`` is that of :class:`Watchdog`; an iteration may take ``timeout_s`` seconds.
    """
    watchdog = Watchdog(address, silence_s=min(SILENCE_S, timeout_s), stall_s=timeout_s)
    try:
        code = exit_code_of(main)
    except Exception as error:
        if comm.get_world_size() > 1 and is_lost_connection(error):
            watchdog.end_after_lost_connection(error)
        traceback.print_exc()
        code = 1
    watchdog.stop(code)
    return code


def _open_store(address: str, *, main: bool) -> dist.TCPStore:
    # A store of its own: a thread that waits on that of the process group blocks all others.
    own = dist.TCPStore(address, 0, is_master=True, wait_for_workers=False) if main else None
    port = comm.all_gather(own.port if own else 0)[0]
    return own or dist.TCPStore(address, port, is_master=False, wait_for_workers=False)


def _place() -> str:
    for module, line in _frames():
        if module.partition(".")[0] in _PACKAGES:
            return f"{module}:{line}"
    return ""


def _frames() -> Iterator[tuple[str, str]]:
    """Yield module, and line with function, of the main thread's frames from the innermost on."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        yield module, f"{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back


def _bytes_read() -> int:
    """Return what the main thread and all child processes have read; -1 without /proc."""
    threads = Path("/proc/self/task")
    main = threads / str(os.getpid())
    if not (main / "io").is_file():
        return -1
    total = 0
    with contextlib.suppress(OSError):
        children = " ".join(path.read_text() for path in threads.glob("*/children")).split()
        for process in (main, *(Path("/proc", child) for child in children)):
            with contextlib.suppress(OSError):  # A child that ended meanwhile.
                total += int((process / "io").read_text().split()[1])  # of "rchar: 123"
    return total
