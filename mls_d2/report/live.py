"""Runs in progress and finished ones as a page, built from their folders on every request."""

import contextlib
import dataclasses
import datetime
import math
import os
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mls_d2.core.errors import UserError
from mls_d2.report.contents import Report, make_section
from mls_d2.report.curves import ENVIRONMENT_FILE, METRICS_FILE, json_file, json_object
from mls_d2.report.groups import group_results
from mls_d2.report.render import render_live
from mls_d2.report.tables import ReportOptions
from mls_d2.results.schema import RESULTS_FILE, collect_results, files_below

LOOPBACK = "127.0.0.1"

RUNNING, FINISHED = "running", "finished"
QUIET_S = 300.0
"""A run that has written nothing for so many seconds is not shown as running."""

_CELL_FILE = "cell.json"  # of the runner
_LAST_FILES = (RESULTS_FILE, "backbone.pth")
_TAIL_BYTES = 2**15


@dataclasses.dataclass(frozen=True)
class Run:
    """The state of one run, as texts and numbers to show."""

    name: str  # of its cell in a suite, else its folder
    what: str  # task, method, and that its data is synthetic; empty if it is not recorded
    state: str  # "running", "finished", "failed", "interrupted" or "quiet for 0:10:00"
    message: str = ""  # why it failed
    step: int = 0  # steps taken
    max_iter: int = 0  # steps in all; 0 if it is not known
    numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)  # losses, rate, ETA


def find_runs(folders: Sequence[Path], now: float) -> list[Run]:
    """Return the runs below ``folders``: running ones first, then by the time of their last file.

    Args:
        folders: to search, also behind links.
        now: in seconds since 1970.
    """
    names = {
        path.parent.resolve(): os.path.join(folder.name, path.parent.relative_to(folder))
        for folder in folders
        for path in files_below(folder, ENVIRONMENT_FILE)
    }
    aged = sorted((_age(path, now), path) for path in names)
    runs = [_read_run(path, names[path], age) for age, path in aged]
    return sorted(runs, key=lambda run: (run.state != RUNNING, run.state == FINISHED))


class LivePage:
    """The page of ``folders``: a card for each run, and the report's tables of finished ones."""

    def __init__(self, folders: Sequence[Path], options: ReportOptions) -> None:
        self._folders, self._options = folders, options
        self._versions: list[tuple[Path, int]] = []
        self._report = Report([], [], [], options)

    def render(self, now: float) -> str:
        """Return the page as HTML; ``now`` is in seconds since 1970."""
        clock = datetime.datetime.fromtimestamp(now).strftime("%H:%M:%S")
        return render_live(self._newest_report(), find_runs(self._folders, now), clock)

    def _newest_report(self) -> Report:
        """Return a report without pictures; it is made again when a file of results changes."""
        paths = [path for folder in self._folders for path in files_below(folder, RESULTS_FILE)]
        versions = [(path, path.stat().st_mtime_ns) for path in paths]
        if versions != self._versions:
            results, unreadable = collect_results(paths)
            groups, left_out = group_results(results, mix=self._options.mix)
            sections = [make_section(group, self._options, []) for group in groups]
            self._report = Report(sections, [], unreadable + left_out, self._options)
            self._versions = versions
        return self._report


def make_server(
    folders: Sequence[Path], options: ReportOptions, *, host: str = LOOPBACK, port: int = 0
) -> ThreadingHTTPServer:
    """Return a server of :class:`LivePage` at ``/`` that listens already; port 0: any free one.

    Raises:
        UserError: a folder does not exist, or the address cannot be listened at.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no such folder of runs: '{folder}'", code="missing-file")

    page = LivePage(folders, options)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/":
                self.send_error(404)
                return
            body = page.render(time.time()).encode("utf-8", "replace")
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Print no line per request."""

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        message = f"cannot listen at {host}:{port}: {error.strerror}; give another PORT or --host"
        raise UserError(message, code="bad-option") from None


def _read_run(folder: Path, name: str, age: float) -> Run:
    facts, cell = (json_file(folder / name) for name in (ENVIRONMENT_FILE, _CELL_FILE))
    last = _last_values(folder / METRICS_FILE)
    max_iter = int(_number(facts.get("max_iter")) or 0)
    step = int(last.pop("iteration", -1)) + 1
    words = [str(facts.get("task", "")), str(facts.get("method", ""))]
    words += ["synthetic scenes"] if facts.get("synthetic") else []
    state, message = _state(folder, cell, age)
    numbers = {name: f"{value:.4g}" for name, value in last.items() if "loss" in name}
    if "images_per_s" in last:
        numbers["images/s"] = f"{last['images_per_s']:.1f}"
    if state == RUNNING and max_iter and "time" in last:
        left = _duration((max_iter - step) * last["time"])
        numbers["ETA"] = left if step < max_iter else "trained; evaluates or writes"
    what = ", ".join(filter(None, words))
    return Run(str(cell.get("name", name)), what, state, message, step, max_iter, numbers)


def _state(folder: Path, cell: Mapping[str, Any], age: float) -> tuple[str, str]:
    """Return the state of a run, and the reason if it failed."""
    if any((folder / name).is_file() for name in _LAST_FILES):
        return FINISHED, ""
    if cell.get("status") in ("failed", "interrupted"):
        return str(cell["status"]), str(cell.get("message", ""))
    return (RUNNING if age <= QUIET_S else f"quiet for {_duration(age)}"), ""


def _age(folder: Path, now: float) -> float:
    """Return the seconds since a run wrote a line or its last file."""
    names = (METRICS_FILE, "log.txt", ENVIRONMENT_FILE, *_LAST_FILES)
    paths = [path for path in map(folder.joinpath, names) if path.is_file()]
    return now - max((path.stat().st_mtime for path in paths), default=0.0)


def _last_values(path: Path) -> dict[str, float]:
    """Return the newest value of every finite scalar in the last lines of a ``metrics.json``."""
    values: dict[str, float] = {}
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        for line in file.read().decode("utf-8", "replace").splitlines():
            values |= {
                name: number
                for name, value in json_object(line).items()
                if (number := _number(value)) is not None
            }
    return values


def _number(value: Any) -> float | None:
    """Return a finite number; None for anything else."""
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _duration(seconds: float) -> str:
    with contextlib.suppress(OverflowError):
        return str(datetime.timedelta(seconds=int(seconds)))
    return "ages"
