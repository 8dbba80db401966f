"""What a table is made of, before it is laid out in one format or another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from mls_d2.report.statistics import Difference, Summary

ABSENT = "–"
"""What stands for a number that was not measured."""


@dataclasses.dataclass(frozen=True)
class Link:
    """A file to open, as a path relative to the report's folder."""

    text: str
    path: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """One entry of a table, as text without markup."""

    text: str
    value: float = math.nan
    """What to sort by; NaN for text, and for a number that was not measured."""
    best: bool = False
    """Significantly above every other row."""
    links: Sequence[Link] = ()
    """Shown instead of the text, where the format has links."""

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class Column:
    """The head of a column."""

    name: str
    numeric: bool = True

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns, and rows with a cell for each of them."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def text_columns(*names: str) -> list[Column]:
    """Return columns of text."""
    return [Column(name, numeric=False) for name in names]


def summary_cell(summary: Summary, *, digits: int = 2, best: bool = False) -> Cell:
    """Return mean and spread, to be sorted by the mean."""
    return Cell(format_summary(summary, digits=digits), summary.mean, best=best)


def number_cell(value: float, form: str) -> Cell:
    """Return a number in a format such as ``".1f"``; a dash for NaN."""
    return Cell(format(value, form) if math.isfinite(value) else ABSENT, value)


def format_summary(summary: Summary, *, digits: int = 2) -> str:
    """Return ``"40.12 ± 0.20"``; without the spread for a single run, a dash for none."""
    if not math.isfinite(summary.mean):
        return ABSENT
    mean = f"{summary.mean:.{digits}f}"
    return f"{mean} ± {summary.std:.{digits}f}" if math.isfinite(summary.std) else mean


def format_difference(value: Difference) -> str:
    """Return ``"+1.20 ± 0.30"``, a dash where one side has no runs."""
    text = format_summary(Summary(value.mean, value.std, value.n))
    return f"+{text}" if value.mean >= 0 else text


def format_p(p: float) -> str:
    """Return ``"0.023"``, ``"< 0.001"`` or a dash."""
    if not math.isfinite(p):
        return ABSENT
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def format_duration(seconds: float) -> str:
    """Return ``"45 s"``, ``"3 min 05 s"`` or ``"12 h 07 min"``."""
    if not math.isfinite(seconds):
        return ABSENT
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    minutes, rest = divmod(total, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
