"""The plan of a suite with its time to go, and the summary of its outcomes, as text."""

import datetime
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from mls_d2.runner.cells import Cell, dependents
from mls_d2.runner.store import FAILED, FINISHED, INTERRUPTED, RUNNING, Store
from mls_d2.runner.suite import Suite
from mls_d2.runner.text import aligned
from mls_d2.runner.tool_process import NOT_RUN, REUSED, SKIPPED, Outcome

_ORDER = (FINISHED, REUSED, FAILED, SKIPPED, INTERRUPTED, NOT_RUN)
_STATES = {FAILED: "failed, again", INTERRUPTED: "resumes", RUNNING: "resumes"}


def plan_text(
    suite: Suite, cells: Sequence[Cell], store: Store, durations: Mapping[str, float], jobs: int
) -> str:
    """Return the state of every cell, with the expected duration of those that are to do.

    ``durations`` are seconds by family, if known; ``jobs`` run at a time.
    """
    states = {cell: _state(cell, store) for cell in cells}
    to_do = [cell for cell, state in states.items() if state != FINISHED]
    jobs = min(jobs, len(cells))
    head = (
        f"suite '{suite.name}', preset {suite.preset}: {len(cells)} cells, {len(to_do)} to do, "
        f"{jobs} at a time: {time_to_go(to_do, durations, jobs)}"
    )
    rows = []
    for cell, state in states.items():
        seconds = durations.get(cell.family)
        length = "" if state == FINISHED else clock(seconds) if seconds is not None else "unknown"
        rows.append((cell.name, state, length))
    return "\n".join([head, *aligned(rows), *_left_out(suite)])


def time_to_go(
    cells: Sequence[Cell],
    durations: Mapping[str, float],
    jobs: int,
    *,
    elapsed: Mapping[Cell, float] | None = None,
) -> str:
    """Return the time that ``cells`` will take, and how many are of unknown length, as text.

    ``elapsed`` are the seconds since the running ones started.
    """
    needed = dependents(cells)
    free = [0.0] * min(jobs, max(1, len(cells)))
    ends: dict[Cell, float] = {}
    # Cells that others need start first.
    for cell in sorted(cells, key=lambda cell: -needed[cell]):
        seconds = durations.get(cell.family, 0.0) - (elapsed or {}).get(cell, 0.0)
        ready = ends.get(cell.needs, 0.0) if cell.needs else 0.0
        ends[cell] = max(heapq.heappop(free), ready) + max(0.0, seconds)
        heapq.heappush(free, ends[cell])
    unknown = sum(cell.family not in durations for cell in cells)
    total = max(ends.values(), default=0.0)
    if not total:
        return "time unknown" if unknown else "no time"
    more = f" and {unknown} of unknown length" if unknown else ""
    return f"about {clock(total)}{more}"


def clock(seconds: float) -> str:
    """Return a duration as ``h:mm:ss``."""
    return str(datetime.timedelta(seconds=round(seconds)))


def summary_text(suite: Suite, cells: Sequence[Cell], outcomes: Mapping[Cell, Outcome]) -> str:
    """Return the outcome of every cell, with the last lines of those that failed."""
    counts = Counter(outcomes[cell].status for cell in cells)
    counted = ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])
    rows = []
    for cell in cells:
        outcome = outcomes[cell]
        length = clock(outcome.seconds) if outcome.seconds else ""
        rows.append((cell.name, outcome.status, length, outcome.message))
    lines = [f"suite '{suite.name}': {counted}", *aligned(rows), *_left_out(suite)]
    for cell in cells:
        outcome = outcomes[cell]
        if outcome.status == FAILED:
            folder = f" ({outcome.folder})" if outcome.folder else ""
            lines += ["", f"{cell.name}: {outcome.message}{folder}"]
            lines += [f"    {line}" for line in outcome.log]
    return "\n".join(lines)


def summary_values(
    cells: Sequence[Cell], outcomes: Mapping[Cell, Outcome]
) -> dict[str, dict[str, object]]:
    """Return the outcomes as plain values, for programs."""
    return {
        cell.name: asdict(outcomes[cell]) | {"folder": str(outcomes[cell].folder or "")}
        for cell in cells
    }


def _left_out(suite: Suite) -> list[str]:
    """Return one line for each method that needs a file from the user."""
    return [
        f"left out: {item.name} needs {item.needs}; give it with --checkpoint {item.name}=FILE"
        for item in suite.left_out
    ]


def _state(cell: Cell, store: Store) -> str:
    place = store.place(cell)
    if place is None:
        return f"after {cell.needs.name if cell.needs else ''}"
    if store.is_finished(cell, place):
        return FINISHED
    if store.is_locked(place):
        return "running now"
    record = store.record(place)
    return _STATES.get(record.status, "its output is gone") if record else "new"
