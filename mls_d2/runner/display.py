"""Progress of a whole suite: a bar on a terminal, lines elsewhere, or the output of the tools."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from mls_d2.runner.cells import Cell
from mls_d2.runner.executors import Running
from mls_d2.runner.plan import clock, time_to_go
from mls_d2.runner.store import FAILED, FINISHED, LOG_FILE, Store, tail
from mls_d2.runner.tool_process import REUSED, Outcome

_BAR_S = 1.0
_LINE_S = 30.0
# Not the date that a line of the log begins with.
_STEP = re.compile(r"(?<![\[\d/])(\d+/\d+)\b")
_ETA = re.compile(r"\bETA[ =](?:(\d+) days?, )?(\d+):(\d\d):(\d\d)")


class Display:
    """Prints what starts and ends, and now and then how far everything is.

    With ``follow`` it prints the output of the tools instead of the latter, each line after the
    name of its cell.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        store: Store,
        durations: Mapping[str, float],
        jobs: int,
        stream: TextIO,
        *,
        follow: bool = False,
    ) -> None:
        self._cells, self._store, self._jobs, self._stream = cells, store, jobs, stream
        self._durations = dict(durations)
        self._printed: dict[str, float] = {}  # durations by family, as running cells print them
        self._shown: set[Cell] = set()
        self._since: dict[Cell, float] = {}
        self._names: dict[Cell, str] = {}  # with the step that a running cell printed last
        self._read: dict[Cell, int] | None = {} if follow else None
        self._next = 0.0
        self._bar = (
            tqdm(total=len(cells), file=stream, bar_format="{n}/{total} |{bar:16}| {desc}")
            if stream.isatty() and not follow
            else None
        )

    def __call__(self, outcomes: Mapping[Cell, Outcome], running: Sequence[Running]) -> None:
        """Show what is new."""
        active = [item.cell for item in running if item.started]
        for cell in active:
            if cell not in self._since:
                self._since[cell] = time.monotonic()
                self._start(cell)
        for cell in self._since if self._read is not None else ():
            self._follow(cell)
        for cell, outcome in outcomes.items():
            if cell not in self._shown:
                self._shown.add(cell)
                self._end(cell, outcome, len(outcomes))
        if active and self._read is None and time.monotonic() >= self._next:
            self._show_status(outcomes, active)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def _log(self, cell: Cell) -> Path | None:
        place = self._store.place(cell)
        return place.folder / LOG_FILE if place else None

    def _start(self, cell: Cell) -> None:
        self._print(f"{cell.name} starts")
        path = self._log(cell)
        if self._read is not None and path is not None:
            # Earlier attempts stand before the last command line.
            text = path.read_bytes()
            self._read[cell] = max(text.rfind(b"\n$ ") + 1, 0)

    def _follow(self, cell: Cell) -> None:
        path = self._log(cell)
        if self._read is None or cell in self._shown or path is None:
            return
        with path.open("rb") as file:
            file.seek(self._read[cell])
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read[cell] += len(whole)
        for line in whole.decode("utf-8", "replace").split("\n")[:-1]:
            # A progress bar rewrites its line again and again.
            self._print(f"{cell.name}: {line.rpartition(chr(13))[2]}")

    def _end(self, cell: Cell, outcome: Outcome, number: int) -> None:
        if outcome.status == FINISHED:
            self._durations.setdefault(cell.family, outcome.seconds)
            text = f"finished in {clock(outcome.seconds)}"
        else:
            text = "was finished before" if outcome.status == REUSED else outcome.status
            text += f": {outcome.message}" if outcome.message else ""
        self._print(f"[{number}/{len(self._cells)}] {cell.name} {text}")
        if outcome.status == FAILED and outcome.folder:
            self._print(f"    its output is in {outcome.folder}")

    def _show_status(self, outcomes: Mapping[Cell, Outcome], active: Sequence[Cell]) -> None:
        names = []
        now = time.monotonic()
        elapsed = {cell: now - self._since[cell] for cell in active}
        for cell in active:
            path = self._log(cell)
            line = "".join(tail(path, 1)) if path else ""
            if step := _STEP.search(line):
                self._names[cell] = f"{cell.name} {step[1]}"
            names.append(self._names.get(cell, cell.name))
            if eta := _ETA.search(line):
                self._printed[cell.family] = elapsed[cell] + _seconds(*eta.groups())
        left = [cell for cell in self._cells if cell not in outcomes]
        durations = self._printed | self._durations
        to_go = time_to_go(left, durations, self._jobs, elapsed=elapsed)
        failed = sum(outcome.status == FAILED for outcome in outcomes.values())
        parts = [", ".join(names), f"{to_go} to go"] + ([f"{failed} failed"] if failed else [])
        if self._bar is None:
            self._print(f"{len(outcomes)} of {len(self._cells)} done; {'; '.join(parts)}")
        else:
            self._bar.n = len(outcomes)
            self._bar.set_description_str("; ".join(parts))
        self._next = time.monotonic() + (_LINE_S if self._bar is None else _BAR_S)

    def _print(self, text: str) -> None:
        if self._bar is None:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        else:
            self._bar.write(text, file=self._stream)


def _seconds(days: str | None, hours: str, minutes: str, seconds: str) -> int:
    return ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(seconds)
