"""The tables of a report as LaTeX, with booktabs."""

from __future__ import annotations

import re

from mls_d2.report.cells import Cell, Table
from mls_d2.report.document import Facts, Report

_SHOWN = {"results": "Results", "differences": "Differences", "cost": "Cost"}
_COMMANDS = {
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


def latex_escape(text: str) -> str:
    """Return ``text`` on one line so that LaTeX prints it as it is."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return "".join(_COMMANDS.get(char, char) for char in line)


def latex_table(table: Table, *, caption: str, label: str) -> str:
    """Return a floating table; ``caption`` is plain text."""
    lines = [" & ".join(latex_escape(column.name) for column in table.columns) + r" \\"]
    rows = [" & ".join(map(_cell, row)) + r" \\" for row in table.rows]
    columns = "".join("r" if column.numeric else "l" for column in table.columns)
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{latex_escape(caption)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *lines,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def render_latex(report: Report) -> str:
    """Return all tables but provenance, for a document to input; captions say what marks them."""
    head = [r"% Needs \usepackage{booktabs}; UTF-8."]
    head += [f"% {' '.join(banner.split())}" for banner in report.banners]
    parts = ["\n".join(head)]
    for number, section in enumerate(report.sections, start=1):
        for kind, name in _SHOWN.items():
            table = section.tables[kind]
            if table is not None:
                caption = _caption(name, section.facts)
                label = f"tab:{_slug(section.facts.group.task)}-{number}-{kind}"
                parts.append(latex_table(table, caption=caption, label=label))
    return "\n\n".join(parts) + "\n"


def _caption(name: str, facts: Facts) -> str:
    group = facts.group
    parts = [f"{name}: {facts.title}"]
    parts += [f"MIXED, rows differ in {group.mixed}"] if group.mixed else []
    parts += [group.note] if group.note else []
    if facts.not_comparable:
        parts.append(f"Not comparable with published numbers: {facts.not_comparable}")
    return ". ".join(parts) + "."


def _cell(cell: Cell) -> str:
    text = latex_escape(cell.text)
    return rf"\textbf{{{text}}}" if cell.best else text


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
