"""One cell at work: its tool as a process of its own, and what came of it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mls_d2.checkpoint.backbone_file import read_backbone
from mls_d2.checkpoint.initial_weights import RANDOM
from mls_d2.config.changes import flatten
from mls_d2.convert.convert import config_block
from mls_d2.core.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, UserError
from mls_d2.runner.cells import CONVERT, PRETRAIN, Cell, Tools
from mls_d2.runner.store import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    LOG_FILE,
    RUNNING,
    Place,
    Record,
    Store,
    tail,
)

REUSED, SKIPPED, NOT_RUN = "reused", "skipped", "not run"
_LOG_LINES = 10


@dataclass(frozen=True)
class Outcome:
    """What became of a cell in this run.

    Attributes:
        status: ``"finished"``, ``"reused"`` (it was finished before), ``"failed"``,
            ``"interrupted"``, ``"skipped"`` (what it needs failed) or ``"not run"``.
        message: why, where it is not finished.
        seconds: wall time in this run.
        log: the last lines of its output, where it failed.
        folder: where it is; None where it has none yet.
    """

    status: str
    message: str = ""
    seconds: float = 0.0
    log: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def done(self) -> bool:
        """Whether the cell is finished, now or before."""
        return self.status in (FINISHED, REUSED)


class Job:
    """A running tool. The lock of its folder is its own: it outlives this process if need be.

    Args:
        cell: what runs.
        place: where.
        store: for its records.
        tools: command lines.
        environment: variables to add: the GPUs and threads that it may use.
        lock: of :meth:`Store.lock`.

    Raises:
        UserError: the folder is full or not writable, or the weights are not readable.
    """

    def __init__(
        self,
        cell: Cell,
        place: Place,
        store: Store,
        *,
        tools: Tools,
        environment: Mapping[str, str],
        lock: int,
    ) -> None:
        self.cell, self.place = cell, place
        self._store, self._lock = store, lock
        self._told = False
        self._start = time.monotonic()
        before = store.record(place)
        words = command(cell, place, tools)
        self._record = Record(
            key=place.key,
            name=cell.name,
            family=cell.family,
            status=RUNNING,
            seconds=before.seconds if before else 0.0,
            # One that still says "running" was killed, and nobody knows how long it had run.
            timed=before is None or (before.timed and before.status != RUNNING),
            command=shlex.join(words),
        )
        store.write(place, self._record)
        self._process = self._started(words, environment)

    def _started(self, words: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        try:
            with open(self.place.folder / LOG_FILE, "ab") as log:
                log.write(f"$ {self._record.command}\n".encode())
                log.flush()
                return subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | environment,
                    # A group of its own: the terminal's Ctrl-C reaches the runner alone.
                    start_new_session=True,
                    pass_fds=(self._lock,),
                )
        except OSError as error:
            raise UserError(f"cannot start {words[0]}: {error.strerror}") from None

    def tell(self, number: int) -> None:
        """Send a signal to the tool and to what it started."""
        self._told = True
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)

    def poll(self) -> Outcome | None:
        """Return what came of it, once it has ended; its record is written then."""
        code = self._process.poll()
        return None if code is None else self._finish(code)

    def last_line(self) -> str:
        """Return the last line of its output."""
        lines = tail(self.place.folder / LOG_FILE, 1)
        return lines[0] if lines else ""

    def _finish(self, code: int) -> Outcome:
        seconds = time.monotonic() - self._start
        log = tuple(tail(self.place.folder / LOG_FILE, _LOG_LINES))
        status, message = self._verdict(code, log)
        fields = vars(self._record) | {
            "status": status,
            "message": message,
            "seconds": self._record.seconds + seconds,
        }
        try:
            self._store.write(self.place, Record(**fields))
        except UserError as error:
            status, message = FAILED, str(error)
        finally:
            os.close(self._lock)
        kept = log if status == FAILED else ()
        return Outcome(status, message, seconds, kept, self.place.folder)

    def _verdict(self, code: int, log: tuple[str, ...]) -> tuple[str, str]:
        if code == 0:
            if (self.place.folder / self.cell.output).is_file():
                return FINISHED, ""
            return FAILED, f"it ended without an error and wrote no {self.cell.output}"
        if code in (EXIT_INTERRUPTED, EXIT_PREEMPTED) or (self._told and code < 0):
            return INTERRUPTED, "stopped; the same command goes on from its last checkpoint"
        if code < 0:
            return FAILED, (
                f"killed by {signal.Signals(-code).name}; the same command goes on from its last "
                "checkpoint"
            )
        errors = [line for line in log if line.startswith("error: ")]
        return FAILED, f"exit code {code}" + (f", {errors[-1]}" if errors else "")


def command(cell: Cell, place: Place, tools: Tools) -> list[str]:
    """Return the command line that runs ``cell`` in ``place``.

    Raises:
        UserError: converted weights are not readable.
    """
    folder = str(place.folder)
    if cell.stage == CONVERT:
        source, *words = cell.arguments
        return [*tools.convert, source, f"{folder}/{cell.output}", "--force", *words]
    if cell.stage == PRETRAIN:
        return [*tools.pretrain, *cell.arguments, "OUTPUT_DIR", folder]
    weights = str(place.weights) if place.weights else RANDOM
    words = [*tools.train_net, *cell.arguments, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", folder]
    if cell.needs is not None and cell.needs.stage == CONVERT:
        # Weights from elsewhere want their own architecture and input.
        for key, value in flatten(config_block(read_backbone(weights).info)).items():
            words += [key, str(value)]
    return words
