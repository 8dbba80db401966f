"""Errors for users, and the one place that turns them into exit codes of the tools."""

import difflib
import io
import signal
import sys
from collections.abc import Callable, Iterable

EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75
EXIT_LOST_PROCESS = 76
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """An error that the user can fix.

    It is printed without a traceback.

    Args:
        message: what was got, what was expected and what to do.
        code: short, stable name of the kind of error, for example ``"unknown-key"``; it is printed
            after the message, and tests compare it instead of the wording. By default it is that of
            the class.
    """

    code = ""

    def __init__(self, message: str, *, code: str = "") -> None:
        if message.startswith("Caught "):
            # A data loader re-raises errors of its workers with their traceback in front.
            message = message.rpartition(f"{type(self).__name__}: ")[2].rstrip()
        super().__init__(message)
        self.code = code or self.code


class Preempted(KeyboardInterrupt):
    """A scheduler asked the run to stop, by a signal; a checkpoint has been written."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name}: stopped after writing a checkpoint")
        self.number = number


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return a phrase that names the valid names closest to ``name``, at most three of them.

    It is ``"did you mean 'a', 'b'?"``, or ``"valid: 'a', 'b', …"`` if nothing is near.
    """
    valid = sorted(candidates)
    lowered = {candidate.lower(): candidate for candidate in valid}
    near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    if near:
        return "did you mean " + ", ".join(repr(lowered[item]) for item in near) + "?"
    shown = ", ".join(repr(candidate) for candidate in valid[:20])
    return f"valid: {shown}{', …' if len(valid) > 20 else ''}"


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and exit with the code of :func:`exit_code_of`."""
    sys.exit(exit_code_of(main))


def exit_code_of(main: Callable[[], int | None]) -> int:
    """Run ``main``, print what stopped it, and return the exit code.

    Codes: 0 success, 2 a :class:`UserError` (printed as ``error: …``) or an error of the operating
    system about a file, 75 preempted by a scheduler (``EX_TEMPFAIL``: resume by the same command
    with ``--resume``), 130 interrupted. Characters that the terminal's encoding does not have are
    printed as question marks.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return main() or 0
    except UserError as error:
        code = f" [{error.code}]" if error.code else ""
        sys.stderr.write(f"error: {error}{code}\n")
        return EXIT_USER_ERROR
    except OSError as error:
        if error.filename is None:
            raise
        sys.stderr.write(f"error: '{error.filename}': {error.strerror} [file-error]\n")
        return EXIT_USER_ERROR
    except Preempted as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_PREEMPTED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
