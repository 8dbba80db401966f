"""Finished runs beside the paper's numbers, for the terminal."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from mls_d2.errors import UserError
from mls_d2.report.groups import Group, Row, group_results, metric_label
from mls_d2.report.published import PublishedRow, matching_row, published_rows
from mls_d2.report.results import collect_results
from mls_d2.report.statistics import summarize
from mls_d2.report.summary import aligned
from mls_d2.report.tables import ABSENT, Table, format_summary, not_comparable, summary_of

logger = logging.getLogger(__name__)


def compare(folders: Sequence[Path]) -> str:
    """Return, for each task and method, our numbers beside the paper's with the difference.

    Runs of several seeds are one mean ± sample standard deviation. Where no published number may
    stand beside ours, the reason does.

    Args:
        folders: folders to search for ``results.json``, or such files.

    Raises:
        UserError: a folder does not exist, or no usable result is in any.
    """
    results, problems = collect_results(folders)
    groups, left_out = group_results(results)
    for problem in problems + left_out:
        logger.warning("%s", problem)
    if not groups:
        where = ", ".join(map(str, folders))
        raise UserError(f"no usable results.json below {where}: no evaluation has finished there")
    blocks = ["\n".join(_block(group, row)) for group in groups for row in group.rows]
    return "\n\n".join(blocks)


def _block(group: Group, row: Row) -> list[str]:
    seeds = [str(run.result.seed) for run in row.runs]
    note = f" ({group.note})" if group.note else ""
    head = f"{group.task}, {row.label}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}{note}"
    rows = published_rows(group.task)
    info = row.first.backbone["info"]
    published = matching_row(rows, method=row.first.method, info=info)
    reason = not_comparable(group)
    if not reason and published is None:
        reason = _unmatched(rows, row)
    if reason:
        return [head, *aligned(_alone(group, row)), f"no published number beside it: {reason}"]
    assert published is not None
    of = f"{published.label}, {published.data or 'no pretraining'}"
    of += f", {published.epochs} epochs" if published.epochs else ""
    source = f"paper: Table {published.table}, {of}; {published.title}"
    return [head, *aligned(_beside(group, row, published)), source]


def _alone(group: Group, row: Row) -> Table:
    rows = [[metric_label(name), format_summary(summary_of(row, name))] for name in group.metrics]
    return Table(["metric", "ours"], rows)


def _beside(group: Group, row: Row, published: PublishedRow) -> Table:
    rows = []
    for name in group.metrics:
        ours, reference = summary_of(row, name), published.metrics.get(name, math.nan)
        gap = ours.mean - reference
        rows.append(
            [
                metric_label(name),
                format_summary(ours),
                format_summary(summarize([reference]), digits=1),
                f"{gap:+.2f}" if math.isfinite(gap) else ABSENT,
            ]
        )
    return Table(["metric", "ours", "paper", "difference"], rows)


def _unmatched(rows: Sequence[PublishedRow], row: Row) -> str:
    if not rows:
        return "the paper has no such benchmark"
    if row.first.backbone["info"].get("synthetic"):
        return "the backbone is pretrained on synthetic scenes"
    lengths = [f", {item.epochs} epochs" if item.epochs else "" for item in rows]
    known = [
        f"{item.method} ({item.data or 'none'}{length})"
        for item, length in zip(rows, lengths, strict=True)
    ]
    return (
        "the paper has no row of this method, pretraining data and number of epochs; it has "
        + ", ".join(known)
    )
