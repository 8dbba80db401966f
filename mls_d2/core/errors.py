"""Errors for users, and the one place that turns them into exit codes of the tools."""

import contextlib
import difflib
import errno
import io
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable

EXIT_USER_ERROR = 2
# Of the system's errors without a file; others are bugs.
_RESOURCES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
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
    code = exit_code_of(main)
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try it again at its end, and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _print_error(_line_of(error))
        code = code or EXIT_USER_ERROR
    sys.exit(code)


def exit_code_of(main: Callable[[], int | None]) -> int:
    """Run ``main``, print what stopped it, and return the exit code.

    Codes: 0 success, 2 a :class:`UserError` (printed as ``error: …``), an error of the operating
    system such as a missing file or a full disk, or no memory, 75 preempted by a scheduler
    (``EX_TEMPFAIL``: resume by the same command with ``--resume``), 130 interrupted. Characters
    that the terminal's encoding does not have are printed as question marks, and a log that cannot
    be written stops nothing.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.raiseExceptions = False
    threading.excepthook = _thread_failed
    try:
        return main() or 0
    except (UserError, OSError, UnicodeEncodeError, MemoryError) as error:
        if _is_bug(error):
            raise
        _print_error(_line_of(error))
        return EXIT_USER_ERROR
    except Preempted as error:
        _print_error(str(error))
        return EXIT_PREEMPTED
    except KeyboardInterrupt:
        _print_error("interrupted")
        return EXIT_INTERRUPTED


def _is_bug(error: Exception) -> bool:
    if isinstance(error, UnicodeEncodeError):
        return error.encoding != sys.getfilesystemencoding()
    if isinstance(error, BrokenPipeError):
        return not _reader_has_left()
    return isinstance(error, OSError) and error.filename is None and error.errno not in _RESOURCES


def _reader_has_left() -> bool:
    """Whether the program that read the standard output has ended."""
    poll = select.poll()
    with contextlib.suppress(OSError):  # no file
        poll.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _line_of(error: Exception) -> str:
    """Return what to print of an error; nothing if whoever read the output has left."""
    if isinstance(error, BrokenPipeError):
        return ""
    if isinstance(error, OSError):
        name = "" if error.filename is None else f"'{os.fsdecode(error.filename)}': "
        return f"error: {name}{error.strerror} [file-error]"
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
        return f"error: the name {error.object!r} is not valid UTF-8; rename it [bad-locale]"
    if isinstance(error, UnicodeEncodeError):
        return (
            f"error: '{error.object}' cannot be written in {error.encoding}, the encoding of this "
            "locale; set PYTHONUTF8=1 [bad-locale]"
        )
    if isinstance(error, MemoryError):
        return f"error: out of memory {error}".rstrip() + " [out-of-memory]"
    code = getattr(error, "code", "")
    return f"error: {error} [{code}]" if code else f"error: {error}"


def _print_error(line: str) -> None:
    if line:
        with contextlib.suppress(OSError):  # the disk of the log is full
            sys.stderr.write(f"{line}\n")


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Report an error in a thread; one of the system as a line, as TensorBoard raises it again."""
    if isinstance(failure.exc_value, OSError) and not _is_bug(failure.exc_value):
        _print_error(_line_of(failure.exc_value).replace("error", "warning", 1))
    else:
        threading.__excepthook__(failure)
