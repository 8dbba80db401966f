"""The report as Markdown, LaTeX, CSV and lines for a terminal."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2

from mls_d2.report.contents import LEGEND, TABLES, Report, Section
from mls_d2.report.table_model import Table, TableCell
from mls_d2.report.tables import runs_table, summary_table

MAX_LINES = 24
"""Lines of a small terminal."""

_MAX_LABEL = 28
_LATEX_TABLES = {"results": "Results", "differences": "Differences", "cost": "Cost"}
_LATEX_COMMANDS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "–": "--",
    **{char: f"\\{char}" for char in "{}&%$#_"},
}
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
# A "_" inside a word starts no emphasis, and names such as coco_2017_train stay readable.
_MARKDOWN_SPECIAL = re.compile(r"[\\`*\[\]~$]|(?<!\w)_|_(?!\w)")
_ASCII = str.maketrans({"±": "+-", "–": "-", "−": "-", "…": "...", "\u00a0": " "})


class Markdown(str):
    """Text that is Markdown already and must not be escaped."""

    __slots__ = ()


@functools.lru_cache(maxsize=4096)
def markdown_escape(text: str) -> Markdown:
    """Return ``text`` on one line so that Markdown shows it as it is, in tables too."""
    line = _MARKDOWN_SPECIAL.sub(lambda match: f"\\{match.group()}", _one_line(text))
    return Markdown("".join(_ENTITIES.get(char, char) for char in line))


def latex_escape(text: str) -> str:
    """Return ``text`` on one line so that LaTeX prints it as it is."""
    return "".join(_LATEX_COMMANDS.get(char, char) for char in _one_line(text))


def markdown_table(table: Table) -> Markdown:
    """Return ``table`` in GitHub's Markdown, numbers to the right, every cell escaped."""
    # Not pandas' to_markdown: it pads columns, so that one new name would change every line of a
    # document under version control.
    header = [str(markdown_escape(column.name)) for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = table.frame(_markdown_cell).to_numpy().tolist()
    return Markdown("\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)))


def latex_table(table: Table, *, caption: str, label: str) -> str:
    """Return a floating table with booktabs; ``caption`` is plain text."""
    frame = table.frame(_latex_cell)
    frame.columns = [latex_escape(name) for name in frame.columns]
    return (
        frame.style.hide(axis="index")
        .to_latex(
            hrules=True,
            position="htbp",
            position_float="centering",
            column_format="".join("r" if column.numeric else "l" for column in table.columns),
            caption=latex_escape(caption),
            label=label,
        )
        .rstrip()
    )


def aligned(table: Table) -> list[str]:
    """Return lines of ASCII: the first column to the left, the others to the right."""
    lines = [[_ascii(column.name) for column in table.columns]]
    lines += [[_ascii(str(cell)) for cell in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])] for cells in lines
    ]
    return ["  ".join(cells).rstrip() for cells in padded]


def render_markdown(report: Report) -> str:
    """Return the whole report."""
    views = [_view(section, TABLES) for section in report.sections]
    template = _environment().get_template("report.md.j2")
    return _tidy(template.render(report=report, legend=LEGEND, sections=views)) + "\n"


def render_markdown_tables(sections: Sequence[Section], kind: str) -> str:
    """Return the tables of one kind of some sections, each with its warnings and remarks."""
    views = [_view(section, [kind]) for section in sections if section.tables[kind] is not None]
    template = _environment().get_template("tables.md.j2")
    return _tidy(template.render(legend=LEGEND, sections=views, kind=kind))


def render_latex(report: Report) -> str:
    """Return all tables except provenance, for a document to input; captions have the remarks."""
    head = [r"% Needs \usepackage{booktabs}; UTF-8."]
    head += [f"% {' '.join(banner.split())}" for banner in report.banners]
    parts = ["\n".join(head)]
    for number, section in enumerate(report.sections, start=1):
        slug = re.sub(r"[^A-Za-z0-9]+", "-", section.group.task).strip("-")
        texts = [section.warning, *section.remarks, *section.footnotes]
        for kind, name in _LATEX_TABLES.items():
            table = section.tables[kind]
            if table is not None:
                caption = " ".join([f"{name}: {section.group.title}.", *filter(None, texts)])
                label = f"tab:{slug}-{number}-{kind}"
                parts.append(latex_table(table, caption=caption, label=label))
    return "\n\n".join(parts) + "\n"


def render_csv(report: Report) -> str:
    """Return a header and one line per run."""
    return runs_table(report.groups).frame().to_csv(index=False, lineterminator="\n")


def render_terminal(report: Report, written: str) -> str:
    """Return the report in at most :data:`MAX_LINES` lines of ASCII.

    Args:
        report: what to summarise.
        written: the file that has everything else.
    """
    count = len(report.runs)
    skipped = f", {len(report.problems)} left out" if report.problems else ""
    head = [f"{count} result{'s' if count != 1 else ''}{skipped}", *report.banners]
    body = []
    for group in report.groups:
        apart = f"MIXED: {group.mixed}" if group.mixed else group.note
        body += ["", f"{group.title} ({apart})" if apart else group.title]
        body += aligned(_shortened(summary_table(group, report.options)))
    foot = ["", f"report: {written}"]
    space = MAX_LINES - len(head) - len(foot)
    if len(body) > space:
        body = [*body[: space - 1], f"... and {len(body) - space + 1} more lines in the report"]
    return "\n".join(_ascii(line) for line in head + body + foot)


def _shortened(table: Table) -> Table:
    rows = [[TableCell(shorten(row[0].text, _MAX_LABEL)), *row[1:]] for row in table.rows]
    return Table(table.columns, rows)


def shorten(text: str, length: int) -> str:
    """Return ``text`` in at most ``length`` characters, which is more than 3."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _view(section: Section, kinds: Iterable[str]) -> dict[str, Any]:
    tables = {kind: section.tables[kind] for kind in kinds}
    written = {kind: table and markdown_table(table) for kind, table in tables.items()}
    return {**vars(section), "evaluated_on": section.evaluated_on, "tables": written}


def _markdown_cell(cell: TableCell) -> str:
    if cell.links:
        return " ".join(f"[{markdown_escape(link.text)}]({link.path})" for link in cell.links)
    text = str(markdown_escape(str(cell)))
    return f"**{text}**" if cell.best else text


def _latex_cell(cell: TableCell) -> str:
    text = latex_escape(str(cell))
    return rf"\textbf{{{text}}}" if cell.best else text


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _ascii(text: str) -> str:
    printable = "".join(char if char.isprintable() else "?" for char in text.translate(_ASCII))
    return printable.encode("ascii", "replace").decode("ascii")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mls_d2.report"),
        autoescape=False,  # HTML's rules do not fit Markdown; `finalize` escapes every value
        finalize=lambda value: (
            value if isinstance(value, Markdown) else markdown_escape(str(value))
        ),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
