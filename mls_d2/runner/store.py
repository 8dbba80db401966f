"""The cells on disk: one folder per cell, named by its key, with a record of its state."""

import fcntl
import os
import statistics
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mls_d2.core.files import JSON_FAULTS, sha256_of, unwritable, write_json
from mls_d2.runner.cells import Cell

RECORD_FILE = "cell.json"
LOG_FILE = "output.txt"
_LOCK_FILE = "cell.lock"
_KEY_LETTERS = 16

RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"


@dataclass(frozen=True)
class Place:
    """The folder of a cell, which is known once the weights that it starts from exist."""

    key: str  # digest of all that decides its result
    folder: Path  # OUTPUT_DIR of the tool
    weights: Path | None  # the file that it starts from; None for random weights


class Record(msgspec.Struct, frozen=True):
    """The content of ``cell.json``."""

    key: str  # digest of all that decides the result of the cell
    name: str  # of the cell, in the run that wrote this
    family: str  # see Cell
    status: str  # "running", "finished", "failed" or "interrupted"
    message: str = ""  # why it failed
    seconds: float = 0.0  # wall time of all attempts that are known
    timed: bool = True  # whether that is all of them; False if the runner was killed in one
    command: str = ""  # the last one, quoted for a shell


class Store:
    """Finds, reads and writes the cells in ``out/cells``, which all suites share."""

    def __init__(self, out: Path) -> None:
        self.out = out.absolute()
        self._digests: dict[tuple[str, int, int], str] = {}

    def place(self, cell: Cell) -> Place | None:
        """Return where ``cell`` is; None while the cell that it needs is not finished."""
        weights = cell.weights
        if cell.needs is not None:
            source = self.place(cell.needs)
            if source is None or not self.is_finished(cell.needs, source):
                return None
            weights = source.folder / cell.needs.output
        key = cell.key(self._sha256(weights) if weights else "")
        return Place(key, self.out / "cells" / f"{cell.stage}-{key[:_KEY_LETTERS]}", weights)

    def is_finished(self, cell: Cell, place: Place) -> bool:
        """Whether the cell has run to its end and its output exists."""
        record = self.record(place)
        done = record is not None and record.status == FINISHED
        return done and (place.folder / cell.output).is_file()

    def has_finished(self, cell: Cell) -> bool:
        """Whether a cell, and those that it needs, are finished."""
        place = self.place(cell)
        return place is not None and self.is_finished(cell, place)

    def record(self, place: Place) -> Record | None:
        """Return the record of a cell; None if there is none with this key."""
        record = _read_record(place.folder / RECORD_FILE)
        return record if record is not None and record.key == place.key else None

    def write(self, place: Place, record: Record) -> None:
        """Write a record, atomically.

        Raises:
            UserError: the folder is full or not writable.
        """
        write_json(str(place.folder / RECORD_FILE), msgspec.to_builtins(record))

    def lock(self, place: Place) -> int | None:
        """Create the folder and lock it; return the open file, or None if another run holds it.

        The lock is held as long as any process has the file open, including a tool that inherits
        it.

        Raises:
            UserError: the folder cannot be created or written to.
        """
        try:
            place.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(place.folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise unwritable(str(place.folder), error) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        return handle

    def is_locked(self, place: Place) -> bool:
        """Whether a process is working in the folder."""
        if not (place.folder / _LOCK_FILE).exists():
            return False
        handle = self.lock(place)
        if handle is None:
            return True
        os.close(handle)
        return False

    def durations(self) -> dict[str, float]:
        """Return the mean wall time, in seconds, of the finished cells of each family."""
        found: dict[str, list[float]] = {}
        for path in sorted((self.out / "cells").glob(f"*/{RECORD_FILE}")):
            record = _read_record(path)
            if record is not None and record.status == FINISHED and record.timed:
                found.setdefault(record.family, []).append(record.seconds)
        return {family: statistics.mean(seconds) for family, seconds in found.items()}

    def _sha256(self, path: Path) -> str:
        info = path.stat()
        version = (str(path), info.st_size, info.st_mtime_ns)
        if version not in self._digests:
            self._digests[version] = sha256_of(str(path))
        return self._digests[version]


def tail(path: Path, lines: int) -> list[str]:
    """Return the last ``lines`` lines of a text file; none if it does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 400 * lines))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    # A progress bar rewrites its line again and again.
    found = [line.rsplit("\r", 1)[-1].rstrip() for line in text.splitlines()]
    return [line for line in found if line][-lines:]


def _read_record(path: Path) -> Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, *JSON_FAULTS):
        # Missing or damaged: the tool itself finds what is left to do in its folder.
        return None
