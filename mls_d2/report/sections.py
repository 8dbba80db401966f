"""What every format shows of a group: its tables by kind, and what is said around them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mls_d2.report.document import Facts, Picture, Section
from mls_d2.report.groups import Group
from mls_d2.report.options import Options
from mls_d2.report.published import published_beside
from mls_d2.report.published_file import Published
from mls_d2.report.statistics import ALPHA, MIN_RUNS
from mls_d2.report.tables import (
    baseline_of,
    cost_table,
    not_comparable,
    provenance_table,
    results_table,
    significance_table,
)

TABLES = ("results", "differences", "cost", "provenance")
"""The kinds of tables of a group."""

LEGEND = (
    "Numbers are mean ± sample standard deviation over n runs, in percent. Bold: significantly "
    f"above every other row. *: significantly different from the baseline. Two-sided t-tests at "
    f"p < {ALPHA:g}, not corrected for the number of comparisons, with at least {MIN_RUNS} runs "
    "on each side."
)
"""How to read the tables."""


def make_section(
    group: Group,
    options: Options,
    *,
    curves: Picture,
    pictures: Sequence[Picture] = (),
    out: Path | None = None,
) -> Section:
    """Return ``group`` with its tables.

    Args:
        group: what to show.
        options: what a reader chose.
        curves: its plot.
        pictures: what its models find, in the order of the rows.
        out: the report's folder, for links to the runs' files; no links without it.
    """
    tables = {
        "results": results_table(group, options),
        "differences": significance_table(group, options),
        "cost": cost_table(group),
        "provenance": provenance_table(group, out),
    }
    return Section(_facts(group, options), tables, curves, pictures)


def _facts(group: Group, options: Options) -> Facts:
    reason = not_comparable(group, options)
    return Facts(
        group=group,
        title=f"{group.task}, preset {group.preset}",
        baseline=options.baseline,
        has_baseline=baseline_of(group, options) is not None,
        not_comparable=reason,
        references=[] if reason else _references(group, options.published),
        dataset=group.rows[0].first.dataset,
    )


def _references(group: Group, published: Published) -> list[str]:
    """Return tables and publications of the numbers that stand beside those of ``group``."""
    beside = [published_beside(row.first, published) for row in group.rows]
    matched = [row for row in beside if row is not None]
    tables: dict[str, dict[str, None]] = {}
    for row in matched or published.of_task(group.task):
        tables.setdefault(row.source, {})[row.table] = None
    return [
        f"Table{'s' if len(names) > 1 else ''} {', '.join(names)} of {source}"
        for source, names in tables.items()
    ]
