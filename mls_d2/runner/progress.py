"""The whole matrix while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Protocol, TextIO

from tqdm import tqdm

from mls_d2.runner.cells import Cell
from mls_d2.runner.estimate import clock, estimate
from mls_d2.runner.job import REUSED, Outcome
from mls_d2.runner.store import FAILED, FINISHED

_BAR_S = 1.0
_LINE_S = 30.0
# Not the date that a line of the log begins with.
_STEP = re.compile(r"(?<![\[\d/])(\d+/\d+)\b")


class Active(Protocol):
    """A cell that runs."""

    @property
    def cell(self) -> Cell:
        """Which one."""

    def last_line(self) -> str:
        """Return the last line of its output."""


class Progress:
    """Says what starts and ends, and now and then how far everything is.

    Args:
        cells: the whole matrix.
        durations: seconds by family, of those that are known.
        jobs: how many run at a time.
        stream: where to write.
    """

    def __init__(
        self, cells: Sequence[Cell], durations: Mapping[str, float], jobs: int, stream: TextIO
    ) -> None:
        self._cells, self._jobs, self._stream = cells, jobs, stream
        self._durations = dict(durations)
        self._told: set[Cell] = set()
        self._since: dict[Cell, float] = {}
        self._next = 0.0
        self._bar = (
            tqdm(total=len(cells), file=stream, bar_format="{n}/{total} |{bar:16}| {desc}")
            if stream.isatty()
            else None
        )

    def __call__(self, outcomes: Mapping[Cell, Outcome], running: Sequence[Active]) -> None:
        """Show what is new."""
        for active in running:
            if active.cell not in self._since:
                self._since[active.cell] = time.monotonic()
                self._say(f"{active.cell.name} starts")
        for cell, outcome in outcomes.items():
            if cell not in self._told:
                self._told.add(cell)
                self._tell(cell, outcome, len(outcomes))
        if time.monotonic() < self._next or not running:
            return
        status = self._status(outcomes, running)
        if self._bar is None:
            self._say(f"{len(outcomes)} of {len(self._cells)} done; {status}")
        else:
            self._bar.n = len(outcomes)
            self._bar.set_description_str(status)
        self._next = time.monotonic() + (_LINE_S if self._bar is None else _BAR_S)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def _tell(self, cell: Cell, outcome: Outcome, number: int) -> None:
        if outcome.status == FINISHED:
            self._durations.setdefault(cell.family, outcome.seconds)
            text = f"finished in {clock(outcome.seconds)}"
        else:
            text = "was finished before" if outcome.status == REUSED else outcome.status
            text += f": {outcome.message}" if outcome.message else ""
        self._say(f"[{number}/{len(self._cells)}] {cell.name} {text}")
        if outcome.status == FAILED and outcome.folder:
            self._say(f"    its output is in {outcome.folder}")

    def _status(self, outcomes: Mapping[Cell, Outcome], running: Sequence[Active]) -> str:
        parts = []
        for active in running:
            step = _STEP.search(active.last_line())
            parts.append(f"{active.cell.name} {step[1]}" if step else active.cell.name)
        now = time.monotonic()
        elapsed = {active.cell: now - self._since[active.cell] for active in running}
        left = [cell for cell in self._cells if cell not in outcomes]
        failed = sum(outcome.status == FAILED for outcome in outcomes.values())
        to_go = estimate(left, self._durations, self._jobs, elapsed=elapsed)
        parts = [", ".join(parts), f"{to_go} to go"] + ([f"{failed} failed"] if failed else [])
        return "; ".join(parts)

    def _say(self, text: str) -> None:
        if self._bar is None:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        else:
            self._bar.write(text, file=self._stream)
