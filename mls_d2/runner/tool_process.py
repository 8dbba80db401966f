"""A cell that runs: its tool as a process of its own, and the outcome."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

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
    """The end of a cell in this run."""

    status: (
        str  # of Record, or "reused" (finished before), "skipped" (what it needs failed), "not run"
    )
    message: str = ""  # the reason if it is not finished
    seconds: float = 0.0  # wall time in this run
    log: tuple[str, ...] = ()  # the last lines of its output if it failed
    folder: Path | None = None

    @property
    def done(self) -> bool:
        """Whether the cell is finished, now or before."""
        return self.status in (FINISHED, REUSED)


class ToolProcess:
    """A running tool. It inherits the lock of its folder, and keeps it if this process is killed.

    Args:
        cell: what runs.
        place: its folder and weights.
        store: for its records.
        tools: command lines.
        environment: variables to add: the GPUs and threads that it may use.
        lock: of :meth:`Store.lock`.
        resources: closed when the tool has ended, the lock among them.

    Raises:
        UserError: the folder is full or not writable, or the weights are not readable.
    """

    started = True

    def __init__(
        self,
        cell: Cell,
        place: Place,
        store: Store,
        *,
        tools: Tools,
        environment: Mapping[str, str],
        lock: int,
        resources: contextlib.ExitStack,
    ) -> None:
        self.cell, self.place = cell, place
        self._store, self._resources = store, resources
        self._stopped = False
        self._start = time.monotonic()
        before = store.record(place)
        words = command(cell, place, tools)
        self._record = Record(
            key=place.key,
            name=cell.name,
            family=cell.family,
            status=RUNNING,
            seconds=before.seconds if before else 0.0,
            # A record that still says "running" is of a run that was killed after unknown time.
            timed=before is None or (before.timed and before.status != RUNNING),
            command=shlex.join(words),
        )
        store.write(place, self._record)
        try:
            with open(place.folder / LOG_FILE, "ab") as log:
                log.write(f"$ {self._record.command}\n".encode())
                log.flush()
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | environment,
                    # A session of its own: the terminal's Ctrl-C reaches the runner alone.
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        except OSError as error:
            raise UserError(
                f"cannot start {words[0]}: {error.strerror}", code="missing-file"
            ) from None

    def stop(self, number: int) -> None:
        """Send a signal to the tool and its child processes."""
        self._stopped = True
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)

    def poll(self) -> Outcome | None:
        """Return the outcome once the tool has ended; its record is written then."""
        code = self._process.poll()
        if code is None:
            return None
        seconds = time.monotonic() - self._start
        log = tuple(tail(self.place.folder / LOG_FILE, _LOG_LINES))
        status, message = self._verdict(code, log)
        total = self._record.seconds + seconds
        with self._resources:
            try:
                record = replace(self._record, status=status, message=message, seconds=total)
                self._store.write(self.place, record)
            except UserError as error:
                status, message = FAILED, str(error)
        kept = log if status == FAILED else ()
        return Outcome(status, message, seconds, kept, self.place.folder)

    def _verdict(self, code: int, log: tuple[str, ...]) -> tuple[str, str]:
        if code == 0:
            if (self.place.folder / self.cell.output).is_file():
                return FINISHED, ""
            return FAILED, f"it ended without an error and wrote no {self.cell.output}"
        if code in (EXIT_INTERRUPTED, EXIT_PREEMPTED) or (self._stopped and code < 0):
            return INTERRUPTED, "stopped; the same command resumes from its last checkpoint"
        if code < 0:
            name = signal.Signals(-code).name
            return FAILED, f"killed by {name}; the same command resumes from its last checkpoint"
        errors = [line for line in log if line.startswith("error: ")]
        return FAILED, f"exit code {code}" + (f", {errors[-1]}" if errors else "")


def command(cell: Cell, place: Place, tools: Tools) -> list[str]:
    """Return the command line that runs ``cell`` in ``place``.

    Raises:
        UserError: the weights are not readable.
    """
    folder = str(place.folder)
    if cell.stage == CONVERT:
        source, *words = cell.arguments
        return [*tools.convert, source, f"{folder}/{cell.output}", "--force", *words]
    if cell.stage == PRETRAIN:
        return [*tools.pretrain, *cell.arguments, "OUTPUT_DIR", folder]
    weights = str(place.weights) if place.weights else RANDOM
    words = [*tools.train_net, *cell.arguments, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", folder]
    if cell.weights or (cell.needs and cell.needs.stage == CONVERT):
        info = read_backbone(weights).info
        if "architecture" in info:
            # Converted weights need their own architecture and input.
            pairs = flatten(config_block(info)).items()
            words += [str(word) for pair in pairs for word in pair]
    return words
