"""The report on one terminal screen."""

from __future__ import annotations

from collections.abc import Sequence

from mls_d2.report.cells import format_duration, format_summary
from mls_d2.report.document import Report
from mls_d2.report.groups import Group, metric_label
from mls_d2.report.options import Options
from mls_d2.report.statistics import summarize
from mls_d2.report.tables import baseline_of, difference_cell, summary_of

MAX_LINES = 24
"""Lines of a small terminal."""

_MAX_LABEL = 28
_ASCII = str.maketrans({"±": "+-", "–": "-", "−": "-", "…": "...", "\u00a0": " "})


def terminal_summary(report: Report, written: str) -> str:
    """Return the report in at most :data:`MAX_LINES` lines of ASCII.

    Args:
        report: what to sum up.
        written: the file to point to for all the rest.
    """
    count = len(report.runs)
    skipped = f", {len(report.problems)} left out" if report.problems else ""
    head = [f"{count} result{'s' if count != 1 else ''}{skipped}", *report.banners]
    options = report.options
    body = [line for group in report.groups for line in _group_lines(group, options)]
    foot = ["", f"report: {written}"]
    space = MAX_LINES - len(head) - len(foot)
    if len(body) > space:
        body = [*body[: space - 1], f"... and {len(body) - space + 1} more lines in the report"]
    return "\n".join(_ascii(line) for line in head + body + foot)


def _group_lines(group: Group, options: Options) -> list[str]:
    apart = f"MIXED: {group.mixed}" if group.mixed else group.note
    title = f"{group.task}, preset {group.preset}"
    return ["", f"{title} ({apart})" if apart else title, *aligned(_lines(group, options))]


def _lines(group: Group, options: Options) -> list[list[str]]:
    baseline = baseline_of(group, options)
    header = ["method", "n"]
    for metric in group.headline:
        header.append(metric_label(metric))
        header += [f"- {options.baseline}"] if baseline else []
    lines = [[*header, "wall time"]]
    for row in group.rows:
        cells = [_shortened(row.label), str(len(row.runs))]
        for metric in group.headline:
            cells.append(format_summary(summary_of(row, metric)))
            cells += [difference_cell(row, baseline, metric).text] if baseline else []
        seconds = summarize([run.result.wall_time_s for run in row.runs]).mean
        lines.append([*cells, format_duration(seconds)])
    return lines


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of cells in ASCII, columns padded to the same width."""
    lines = [[_ascii(cell) for cell in line] for line in table]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [_line(cells, widths) for cells in lines]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Lay out one line: the first column to the left, numbers to the right."""
    first = cells[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([first, *rest]).rstrip()


def _shortened(label: str) -> str:
    return label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL - 3]}..."


def _ascii(text: str) -> str:
    printable = "".join(char if char.isprintable() else "?" for char in text.translate(_ASCII))
    return printable.encode("ascii", "replace").decode("ascii")
