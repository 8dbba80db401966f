"""Errors that are meant for users, and the one place where tools turn them into exit codes."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something the user can mend.

    The message says what was got, what was expected and what to do; no traceback is shown with it.
    """


def nearest(name: str, candidates: Iterable[str], *, limit: int = 3) -> str:
    """Return a phrase that names the valid names closest to ``name``.

    Args:
        name: what the user wrote.
        candidates: the valid names.
        limit: how many near names to offer at most.

    Returns:
        ``"did you mean 'a', 'b'?"``, or ``"valid: 'a', 'b', …"`` where nothing is near.
    """
    valid = sorted(candidates)
    lowered = {candidate.lower(): candidate for candidate in valid}
    near = difflib.get_close_matches(name.lower(), lowered, n=limit, cutoff=0.5)
    if near:
        return "did you mean " + ", ".join(repr(lowered[item]) for item in near) + "?"
    shown = ", ".join(repr(candidate) for candidate in valid[:20])
    return f"valid: {shown}{', …' if len(valid) > 20 else ''}"


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and exit with its code.

    Exit codes: 0 success, 2 a :class:`UserError` (printed as ``error: …``), 130 interrupted.
    """
    try:
        code = main() or 0
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = 130
    sys.exit(code)
