"""The one model of a table that every format is rendered from, and how numbers are written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import pandas as pd

from mls_d2.report.statistics import Difference, Summary

ABSENT = "–"
"""Stands for a number that was not measured."""


@dataclasses.dataclass(frozen=True)
class Link:
    """A file to open, as a path relative to the report's folder."""

    text: str
    path: str


@dataclasses.dataclass(frozen=True)
class TableCell:
    """One entry of a table, without the markup of any format."""

    text: str
    value: float = math.nan
    """What to sort by; NaN for text, and for a number that was not measured."""
    std: float = math.nan
    """Sample standard deviation over ``n`` runs; NaN if there is none."""
    n: int = 0
    significant: bool = False
    """Of a difference: marked by a star."""
    best: bool = False
    """Significantly above every other row: printed in bold."""
    links: Sequence[Link] = ()
    """Shown instead of the text in formats that have links."""

    def __str__(self) -> str:
        return f"{self.text} *" if self.significant else self.text


@dataclasses.dataclass(frozen=True)
class Column:
    """The head of a column."""

    name: str
    numeric: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns, and rows with a cell for each of them."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[TableCell]]

    def frame(self, write: Callable[[TableCell], str] = str) -> pd.DataFrame:
        """Return the table as a frame of texts, each cell written by ``write``."""
        rows = [[write(cell) for cell in row] for row in self.rows]
        return pd.DataFrame(rows, columns=[column.name for column in self.columns], dtype=object)


def text_columns(*names: str) -> list[Column]:
    """Return columns of text."""
    return [Column(name, numeric=False) for name in names]


def summary_cell(summary: Summary, *, digits: int = 2, best: bool = False) -> TableCell:
    """Return mean and spread, to be sorted by the mean."""
    text = format_summary(summary, digits=digits)
    return TableCell(text, summary.mean, summary.std, summary.n, best=best)


def difference_cell(found: Difference, *, star: bool = True) -> TableCell:
    """Return ``"+1.20 ± 0.30"``; ``star`` says whether a significant one is marked."""
    text = format_summary(Summary(found.mean, found.std, found.n))
    text = f"+{text}" if found.mean >= 0 else text
    return TableCell(text, found.mean, found.std, found.n, significant=star and found.significant)


def number_cell(value: float, form: str) -> TableCell:
    """Return a number in a format such as ``".1f"``; a dash for NaN."""
    return TableCell(format(value, form) if math.isfinite(value) else ABSENT, value)


def duration_cell(seconds: float) -> TableCell:
    """Return ``"45 s"``, ``"3 min 05 s"`` or ``"12 h 07 min"``; a dash for NaN."""
    if not math.isfinite(seconds):
        return TableCell(ABSENT, seconds)
    minutes, rest = divmod(round(seconds), 60)
    text = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{rest} s"
    return TableCell(f"{minutes} min {rest:02d} s" if 0 < minutes < 60 else text, seconds)


def format_summary(summary: Summary, *, digits: int = 2) -> str:
    """Return ``"40.12 ± 0.20"``; without the spread for a single run, a dash for none."""
    if not math.isfinite(summary.mean):
        return ABSENT
    mean = f"{summary.mean:.{digits}f}"
    return f"{mean} ± {summary.std:.{digits}f}" if math.isfinite(summary.std) else mean


def format_p(p: float) -> str:
    """Return ``"0.023"``, ``"< 0.001"`` or a dash."""
    if not math.isfinite(p):
        return ABSENT
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
