"""What is to be done, and what came of it, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mls_d2.runner.cells import Cell
from mls_d2.runner.estimate import clock, estimate
from mls_d2.runner.job import REUSED, Outcome
from mls_d2.runner.store import FAILED, FINISHED, INTERRUPTED, RUNNING, Store
from mls_d2.runner.suite import Suite

_ORDER = (FINISHED, REUSED, FAILED, "skipped", INTERRUPTED, "not run")


def plan_text(
    suite: Suite, cells: Sequence[Cell], store: Store, durations: Mapping[str, float], jobs: int
) -> str:
    """Return the state of every cell, with how long each of those to do will take."""
    states = {cell: _state(cell, store) for cell in cells}
    to_do = [cell for cell, state in states.items() if state != FINISHED]
    head = (
        f"suite '{suite.name}', preset {suite.preset}: {len(cells)} cells, {len(to_do)} to do, "
        f"{jobs} at a time: {estimate(to_do, durations, jobs)}"
    )
    rows = []
    for cell, state in states.items():
        seconds = durations.get(cell.family)
        length = "" if state == FINISHED else clock(seconds) if seconds is not None else "unknown"
        rows.append((cell.name, state, length))
    return "\n".join([head, *_aligned(rows), *left_out_lines(suite)])


def left_out_lines(suite: Suite) -> list[str]:
    """Return one line for each row that needs a file from the user."""
    return [
        f"left out: {row.name} needs {row.needs}; give it with --checkpoint {row.name}=FILE"
        for row in suite.left_out
    ]


def summary_text(suite: Suite, cells: Sequence[Cell], outcomes: Mapping[Cell, Outcome]) -> str:
    """Return what became of every cell, with the last lines of those that failed."""
    counts = Counter(outcomes[cell].status for cell in cells)
    counted = ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])
    rows = [
        (
            cell.name,
            outcomes[cell].status,
            clock(outcomes[cell].seconds) if outcomes[cell].seconds else "",
            outcomes[cell].message,
        )
        for cell in cells
    ]
    lines = [f"suite '{suite.name}': {counted}", *_aligned(rows), *left_out_lines(suite)]
    for cell in cells:
        if outcomes[cell].status == FAILED:
            lines += ["", *_failure(cell, outcomes[cell])]
    return "\n".join(lines)


def state_of(cells: Sequence[Cell], outcomes: Mapping[Cell, Outcome]) -> dict[str, object]:
    """Return the same as plain values, for programs."""
    return {
        cell.name: {
            "status": outcomes[cell].status,
            "message": outcomes[cell].message,
            "seconds": round(outcomes[cell].seconds, 1),
            "folder": str(outcomes[cell].folder or ""),
            "log": list(outcomes[cell].log),
        }
        for cell in cells
    }


def _state(cell: Cell, store: Store) -> str:
    place = store.place(cell)
    if place is None:
        return f"after {cell.needs.name if cell.needs else ''}"
    if store.is_finished(cell, place):
        return FINISHED
    if store.is_locked(place):
        return "runs now"
    record = store.record(place)
    if record is None:
        return "new"
    return {FAILED: "failed, again", INTERRUPTED: "goes on", RUNNING: "goes on"}.get(
        record.status, "its output is gone"
    )


def _failure(cell: Cell, outcome: Outcome) -> list[str]:
    where = f" ({outcome.folder})" if outcome.folder else ""
    return [f"{cell.name}: {outcome.message}{where}", *(f"    {line}" for line in outcome.log)]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
