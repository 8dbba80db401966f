"""The report as Markdown."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import jinja2

from mls_d2.report.document import Report, Section
from mls_d2.report.published_file import builtin_published
from mls_d2.report.tables import (
    BASELINE,
    Table,
    cost_table,
    not_comparable,
    provenance_table,
    results_table,
)


class Markdown(str):
    """Text that is Markdown already and must not be escaped."""

    __slots__ = ()


_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
# A "_" inside a word starts no emphasis, and names such as coco_2017_train stay readable.
_SPECIAL = re.compile(r"[\\`*\[\]~$]|(?<!\w)_|_(?!\w)")
_TEXT_COLUMNS = ("method", "pretraining", "backbone", "sha256", "versions", "result")


def escape(text: str) -> Markdown:
    """Return ``text`` on one line so that Markdown shows it as it is, in tables too."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    line = _SPECIAL.sub(lambda match: f"\\{match.group()}", line)
    return Markdown("".join(_ENTITIES.get(char, char) for char in line))


def markdown_table(table: Table) -> Markdown:
    """Return ``table`` in GitHub's Markdown, numbers to the right, every cell escaped."""
    rule = ["---" if name in _TEXT_COLUMNS else "---:" for name in table.header]
    header, *rows = [[str(escape(cell)) for cell in row] for row in (table.header, *table.rows)]
    return Markdown("\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)))


def render(report: Report) -> str:
    """Return the whole report."""
    template = _environment().get_template("report.md.j2")
    text = template.render(report=report, sections=_views(report.sections))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _views(sections: Sequence[Section]) -> list[dict[str, Any]]:
    views = []
    for section in sections:
        group = section.group
        views.append(
            {
                "group": group,
                "curves": section.curves,
                "detections": section.detections,
                "dataset": group.rows[0].first.dataset,
                "has_baseline": group.row(BASELINE) is not None,
                "not_comparable": not_comparable(group),
                "published": next(iter(builtin_published().of_task(group.task)), None),
                "results": markdown_table(results_table(group)),
                "cost": markdown_table(cost_table(group)),
                "provenance": markdown_table(provenance_table(group)),
            }
        )
    return views


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mls_d2.report"),
        autoescape=False,  # HTML's rules do not fit Markdown; `finalize` escapes every value
        finalize=lambda value: value if isinstance(value, Markdown) else escape(str(value)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
