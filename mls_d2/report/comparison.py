"""Finished runs beside the paper's numbers, for the terminal."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from mls_d2.core.errors import UserError
from mls_d2.report.cells import ABSENT, format_summary
from mls_d2.report.groups import Group, Row, group_results, metric_label
from mls_d2.report.published import published_beside, why_not_compared
from mls_d2.report.published_file import Published, PublishedRow, builtin_published
from mls_d2.report.statistics import summarize
from mls_d2.report.summary import aligned
from mls_d2.report.tables import summary_of
from mls_d2.results.schema import collect_results

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
    published = builtin_published()
    blocks = ["\n".join(_block(group, row, published)) for group in groups for row in group.rows]
    return "\n\n".join(blocks)


def _block(group: Group, row: Row, published: Published) -> list[str]:
    seeds = [str(run.result.seed) for run in row.runs]
    note = f" ({group.note})" if group.note else ""
    head = f"{group.task}, {row.label}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}{note}"
    reference = published_beside(row.first, published)
    if reference is None:
        reason = why_not_compared(row.first, published)
        return [head, *aligned(_alone(group, row)), f"no published number beside it: {reason}"]
    source = f"paper: {reference.label} ({reference.pretraining}), {reference.reference}"
    return [head, *aligned(_beside(group, row, reference)), source]


def _alone(group: Group, row: Row) -> list[list[str]]:
    lines = [[metric_label(name), format_summary(summary_of(row, name))] for name in group.metrics]
    return [["metric", "ours"], *lines]


def _beside(group: Group, row: Row, published: PublishedRow) -> list[list[str]]:
    lines = [["metric", "ours", "paper", "difference"]]
    for name in group.metrics:
        ours, reference = summary_of(row, name), published.metrics.get(name, math.nan)
        gap = ours.mean - reference
        lines.append(
            [
                metric_label(name),
                format_summary(ours),
                format_summary(summarize([reference]), digits=1),
                f"{gap:+.2f}" if math.isfinite(gap) else ABSENT,
            ]
        )
    return lines
