"""How long what is left will take, from what took as long before."""

from __future__ import annotations

import datetime
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mls_d2.runner.cells import Cell, dependents


@dataclass(frozen=True)
class Estimate:
    """Time to go.

    Attributes:
        seconds: wall time of the cells whose length is known.
        unknown: how many others there are.
    """

    seconds: float
    unknown: int

    def __str__(self) -> str:
        if not self.seconds:
            return "time unknown" if self.unknown else "no time"
        more = f" and {self.unknown} of unknown length" if self.unknown else ""
        return f"about {clock(self.seconds)}{more}"


def estimate(
    cells: Sequence[Cell],
    durations: Mapping[str, float],
    jobs: int,
    *,
    elapsed: Mapping[Cell, float] | None = None,
) -> Estimate:
    """Return how long ``cells`` will take where ``jobs`` of them run at a time.

    Args:
        cells: what is left to do.
        durations: seconds by family, of those that are known.
        jobs: how many run at a time.
        elapsed: seconds that running ones have taken already.
    """
    needed = dependents(cells)
    free = [0.0] * jobs
    ends: dict[Cell, float] = {}
    # What is needed by others goes first, so that it stands before them here, too.
    for cell in sorted(cells, key=lambda cell: -needed[cell]):
        seconds = durations.get(cell.family, 0.0) - (elapsed or {}).get(cell, 0.0)
        ready = ends.get(cell.needs, 0.0) if cell.needs else 0.0
        ends[cell] = max(heapq.heappop(free), ready) + max(0.0, seconds)
        heapq.heappush(free, ends[cell])
    unknown = sum(cell.family not in durations for cell in cells)
    return Estimate(max(ends.values(), default=0.0), unknown)


def clock(seconds: float) -> str:
    """Return a duration as ``h:mm:ss``."""
    return str(datetime.timedelta(seconds=round(seconds)))
