"""The report as Markdown."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2

from mls_d2.report.cells import Cell, Table
from mls_d2.report.document import Report, Section
from mls_d2.report.sections import LEGEND, TABLES


class Markdown(str):
    """Text that is Markdown already and must not be escaped."""

    __slots__ = ()


_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
# A "_" inside a word starts no emphasis, and names such as coco_2017_train stay readable.
_SPECIAL = re.compile(r"[\\`*\[\]~$]|(?<!\w)_|_(?!\w)")


@functools.lru_cache(maxsize=4096)
def escape(text: str) -> Markdown:
    """Return ``text`` on one line so that Markdown shows it as it is, in tables too."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    line = _SPECIAL.sub(lambda match: f"\\{match.group()}", line)
    return Markdown("".join(_ENTITIES.get(char, char) for char in line))


def markdown_table(table: Table) -> Markdown:
    """Return ``table`` in GitHub's Markdown, numbers to the right, every cell escaped."""
    header = [str(escape(column.name)) for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    return Markdown("\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)))


def render(report: Report) -> str:
    """Return the whole report."""
    template = _environment().get_template("report.md.j2")
    views = [_view(section, TABLES) for section in report.sections]
    text = template.render(report=report, legend=LEGEND, sections=views)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def render_part(sections: Sequence[Section], kind: str) -> str:
    """Return the tables of one kind of some sections, each with what a reader must know of it."""
    template = _environment().get_template("part.md.j2")
    views = [_view(section, [kind]) for section in sections if section.tables[kind] is not None]
    text = template.render(legend=LEGEND, sections=views, kind=kind)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _view(section: Section, kinds: Iterable[str]) -> dict[str, Any]:
    tables = {kind: section.tables[kind] for kind in kinds}
    written = {kind: table and markdown_table(table) for kind, table in tables.items()}
    return {**vars(section), "tables": written}


def _cell(cell: Cell) -> str:
    if cell.links:
        return " ".join(f"[{escape(link.text)}]({link.path})" for link in cell.links)
    text = str(escape(cell.text))
    return f"**{text}**" if cell.best else text


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
