"""The report as an HTML page, Markdown, LaTeX, CSV and lines for a terminal."""

import base64
import functools
import mimetypes
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd

from mls_d2.report.contents import LEGEND, Report, ReportPicture, Section
from mls_d2.report.groups import is_synthetic, shown_metrics
from mls_d2.report.tables import Table, TableCell, summary_table

MAX_EMBEDDED = 24 * 2**20
"""Bytes of pictures in an HTML page; more are linked, so that browsers can still open it."""

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


def render_html(report: Report, out: Path) -> str:
    """Return one page that needs no other file; its pictures are read from the folder ``out``."""
    left = MAX_EMBEDDED

    def figure(picture: ReportPicture) -> dict[str, str]:
        """Return what the template shows of a picture; ``uri`` is empty if it is too large."""
        nonlocal left
        content = (out / picture.file).read_bytes()
        uri = ""
        if len(content) <= left:
            left -= len(content)
            kind = mimetypes.guess_type(picture.file)[0]
            uri = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
        return {"caption": picture.caption, "href": quote(picture.file), "uri": uri}

    # First the curves, of which each stands for many numbers.
    pretraining = list(map(figure, report.pretraining))
    curves = [list(map(figure, section.curves)) for section in report.sections]
    pictures = [list(map(figure, section.pictures)) for section in report.sections]
    sections = zip(report.sections, curves, pictures, strict=True)
    template = _templates(autoescape=True).get_template("report.html.j2")
    return template.render(report=report, sections=sections, pretraining=pretraining, legend=LEGEND)


def render_live(report: Report, runs: Sequence[Any], clock: str) -> str:
    """Return the page of :mod:`mls_d2.report.live`: its runs, and the tables of ``report``."""
    template = _templates(autoescape=True).get_template("live.html.j2")
    return template.render(report=report, runs=runs, clock=clock, legend=LEGEND)


class Markdown(str):
    """Text that is Markdown already and must not be escaped."""

    __slots__ = ()


@functools.lru_cache(maxsize=4096)
def markdown_escape(text: str) -> Markdown:
    """Return ``text`` on one line so that Markdown shows it as it is, in tables too."""
    line = _MARKDOWN_SPECIAL.sub(lambda match: f"\\{match.group()}", _one_line(text))
    return Markdown("".join(_ENTITIES.get(char, char) for char in line))


def markdown_table(table: Table | None) -> Markdown:
    """Return a table in GitHub's Markdown, numbers to the right, every cell escaped."""
    # Not pandas' to_markdown: it pads columns, so that one new name would change every line of a
    # document under version control.
    if table is None:
        return Markdown("")
    header = [str(markdown_escape(column.name)) for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = table.frame(_markdown_cell).to_numpy().tolist()
    return Markdown("\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)))


def render_markdown(report: Report) -> str:
    """Return the whole report."""
    return _markdown("report.md.j2", report=report) + "\n"


def render_markdown_tables(sections: Sequence[Section], kind: str) -> str:
    """Return the tables of one kind of some sections, each with its marks and remarks."""
    shown = [section for section in sections if section.tables[kind] is not None]
    return _markdown("tables.md.j2", sections=shown, kind=kind)


def latex_escape(text: str) -> str:
    """Return ``text`` on one line so that LaTeX prints it as it is."""
    return "".join(_LATEX_COMMANDS.get(char, char) for char in _one_line(text))


def latex_table(table: Table, *, caption: str, label: str) -> str:
    """Return a floating table with booktabs; ``caption`` is plain text."""
    frame = table.frame(_latex_cell).rename(columns=latex_escape)
    text = frame.style.hide(axis="index").to_latex(
        hrules=True,
        position="htbp",
        position_float="centering",
        column_format="".join("r" if column.numeric else "l" for column in table.columns),
        caption=latex_escape(caption),
        label=label,
    )
    return text.rstrip()


def render_latex(report: Report) -> str:
    """Return all tables except provenance, for a document to input; captions have the marks."""
    head = [r"% Needs \usepackage{booktabs}; UTF-8.", *(f"% {text}" for text in report.banners)]
    parts = ["\n".join(head)]
    for number, section in enumerate(report.sections, start=1):
        slug = re.sub(r"[^A-Za-z0-9]+", "-", section.group.task).strip("-")
        for kind, name in _LATEX_TABLES.items():
            table = section.tables[kind]
            if table is not None:
                notes = () if kind == "cost" else section.footnotes
                caption = " ".join([f"{name}: {section.group.title}.", *section.marks, *notes])
                label = f"tab:{slug}-{number}-{kind}"
                parts.append(latex_table(table, caption=caption, label=label))
    return "\n\n".join(parts) + "\n"


def render_csv(report: Report) -> str:
    """Return a header and one line per run, all metrics in full precision.

    Runs with the same number in column ``group`` are comparable; unmeasured numbers are empty.
    """
    metrics = shown_metrics(run.result for run in report.runs)
    records = []
    for number, group in enumerate(report.groups, start=1):
        for row in group.rows:
            values = {metric: [value for _, value in row.values(metric)] for metric in metrics}
            for place, run in enumerate(row.runs):
                result = run.result
                record = {
                    "group": number,
                    "row": row.label,
                    "task": result.task,
                    "preset": result.preset,
                    "method": result.method,
                    "seed": result.seed,
                    "dataset": result.dataset.name,
                    "synthetic": str(is_synthetic(result)).lower(),
                    "backbone": result.backbone.file,
                    "backbone_sha256": result.backbone.sha256,
                    "images_per_s": result.images_per_s,
                    "wall_time_s": result.wall_time_s,
                    "peak_memory_mb": result.peak_memory_mb,
                    "device": result.device.kind,
                    "device_count": result.device.count,
                    "finished": result.finished,
                    "result": str(run.path),
                }
                records.append(record | {name: values[name][place] for name in metrics})
    return pd.DataFrame(records, dtype=object).to_csv(index=False, lineterminator="\n")


def render_terminal(report: Report, written: str) -> str:
    """Return the report in at most MAX_LINES lines of ASCII; ``written`` has everything else."""
    count = len(report.runs)
    skipped = f", {len(report.problems)} left out" if report.problems else ""
    head = [f"{count} result{'s' if count != 1 else ''}{skipped}", *report.banners]
    body = []
    for section in report.sections:
        group, tables = section.group, section.tables
        apart = f"MIXED: {group.mixed}" if group.mixed else group.note
        body += ["", f"{group.title} ({apart})" if apart else group.title]
        if tables["results"] and tables["cost"]:
            body += terminal_table(summary_table(tables["results"], tables["cost"], group))
    foot = ["", f"report: {written}"]
    space = MAX_LINES - len(head) - len(foot)
    if len(body) > space:
        body = [*body[: space - 1], f"... and {len(body) - space + 1} more lines in the report"]
    return "\n".join(_ascii(line) for line in head + body + foot)


def terminal_table(table: Table) -> list[str]:
    """Return lines of ASCII: the first column, shortened, to the left, the others to the right."""
    lines = [[column.name for column in table.columns]]
    lines += [[str(cell) for cell in row] for row in table.rows]
    lines = [[_shortened(_ascii(first)), *map(_ascii, rest)] for first, *rest in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return ["  ".join(cells).rstrip() for cells in padded]


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 3]}..."


def _markdown(name: str, **values: Any) -> str:
    template = _templates(autoescape=False, finalize=_escaped).get_template(name)
    text = template.render(legend=LEGEND, table=markdown_table, **values)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _escaped(value: Any) -> str:
    return value if isinstance(value, Markdown) else markdown_escape(str(value))


def _markdown_cell(cell: TableCell) -> str:
    if cell.links:
        return " ".join(f"[{markdown_escape(name)}]({path})" for name, path in cell.links.items())
    text = str(markdown_escape(str(cell)))
    return f"**{text}**" if cell.best else text


def _latex_cell(cell: TableCell) -> str:
    text = latex_escape(str(cell))
    return rf"\textbf{{{text}}}" if cell.best else text


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _ascii(text: str) -> str:
    printable = "".join(char if char.isprintable() else "?" for char in text.translate(_ASCII))
    return printable.encode("ascii", "replace").decode("ascii")


@functools.cache
def _templates(
    *, autoescape: bool, finalize: Callable[[Any], Any] | None = None
) -> jinja2.Environment:
    # HTML's rules do not fit Markdown, of which `finalize` escapes every value.
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mls_d2.report"),
        autoescape=autoescape,
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
