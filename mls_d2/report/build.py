"""From folders of finished runs to a report, to tables in a document, or to a comparison."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import check_writable, write_bytes
from mls_d2.report.contents import TABLES, Report, ReportPicture, make_section
from mls_d2.report.curves import METRICS_FILE, pretraining_runs, read_curves
from mls_d2.report.figures import FIGURES_FOLDER, NEIGHBOURS_FILE, SCORES_FILE, plot_sweeps, sweeps
from mls_d2.report.groups import Group, group_results
from mls_d2.report.plots import LOSS, plot_group, plot_pretraining
from mls_d2.report.published import published_beside, why_not_compared
from mls_d2.report.render import (
    render_csv,
    render_html,
    render_latex,
    render_markdown,
    render_markdown_tables,
    terminal_table,
)
from mls_d2.report.tables import DEFAULT_BASELINE, ReportOptions, comparison_table
from mls_d2.results.schema import RESULTS_FILE, LocatedResult, collect_results

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"  # the file to open first
# What tools/figures.py makes of a pretraining run, and what it shows.
_FIGURES = {
    SCORES_FILE: "scores of a query before and after training",
    NEIGHBOURS_FILE: "query crops (red) and their nearest crops (yellow)",
}
PICTURE_FILE = "predictions.png"  # beside a results.json, if the evaluation drew one

_MARKER = re.compile(r"^[ \t]*<!--\s*report:(?:begin|end)\b.*?-->[ \t]*$", re.MULTILINE)
_BLOCK = re.compile(
    r"^([ \t]*<!--\s*report:begin\s+(?P<name>[^\n]*?)\s*-->[ \t]*)$.*?"
    r"^(?P<end>[ \t]*<!--\s*report:end\s+(?P=name)\s*-->[ \t]*)$",
    re.MULTILINE | re.DOTALL,
)


def write_report(
    folders: Sequence[Path], out: Path, options: ReportOptions | None = None
) -> Report:
    """Write ``report.html``, ``report.md``, ``results.csv``, ``results.tex`` and their pictures.

    Args:
        folders: folders to search for ``results.json``, or such files.
        out: the folder to write; it is created. Files of an earlier report are replaced.
        options: the user's choices.

    Raises:
        UserError: a folder does not exist, there is no usable result, the baseline is not among
            the results or is several rows of one table, or ``out`` cannot be written.
    """
    options = options or ReportOptions()
    results, groups, problems = _load(folders, options)
    _check_baseline(groups, options)
    check_writable(str(out))
    sections = []
    for number, group in enumerate(groups, start=1):
        curves = [_plot_curves(group, number, out), *_plot_sweeps(group, number, out)]
        pictures = _copy_pictures(group, number, out)
        sections.append(make_section(group, options, curves, pictures, out))
    pretraining = _plot_pretraining(folders, results, out)
    report = Report(sections, pretraining, problems, options)
    for line in report.disagreements:
        logger.warning("%s", line)
    texts = {
        "results.csv": render_csv(report),
        "results.tex": render_latex(report),
        "report.md": render_markdown(report),
        REPORT_FILE: render_html(report, out),
    }
    for name, text in texts.items():
        write_bytes(out / name, text.encode())
    return report


def compare(folders: Sequence[Path], options: ReportOptions | None = None) -> str:
    """Return, for each task and method, our numbers beside the published ones, for a terminal.

    Runs of several seeds are one mean ± sample standard deviation. If no published number is
    comparable with ours, the reason is printed instead.

    Args:
        folders: folders to search for ``results.json``, or such files.
        options: the user's choices; the baseline is not used.

    Raises:
        UserError: a folder does not exist, or there is no usable result.
    """
    options = options or ReportOptions()
    blocks = []
    for group in _load(folders, options)[1]:
        for row in group.rows:
            reference = published_beside(row.first, options.published)
            seeds = ", ".join(str(run.result.seed) for run in row.runs)
            plural = "s" * (len(row.runs) > 1)
            note = f" ({group.note})" if group.note else ""
            source = f"no published number: {why_not_compared(row.first, options.published)}"
            if reference:
                label = f"{reference.label} ({reference.pretraining})"
                source = f"published: {label}, Table {reference.table} of {reference.source}"
                source += f"\n{reference.note}" if reference.note else ""
            table = terminal_table(comparison_table(group, row, reference))
            head = f"{group.title}, {row.label}, seed{plural} {seeds}{note}"
            blocks.append("\n".join([head, *table, source]))
    return "\n\n".join(blocks)


def draw_sweeps(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write Figure 5 of the MLS paper of every group of results that has the runs for it.

    Args:
        folders: folders to search for ``results.json``.
        out: folder to write to; created if it is needed.

    Returns:
        The pictures, ``figure5.svg``, ``figure5-2.svg`` and so on.
    """
    pictures = []
    for number, group in enumerate(group_results(collect_results(folders)[0])[0], start=1):
        if sweeps(group):
            check_writable(str(out))
            pictures += [out / item.file for item in _plot_sweeps(group, number, out)]
    return pictures


def update_document(path: Path, report: Report) -> list[str]:
    """Replace the tables between markers in a Markdown file by those of ``report``.

    ``<!-- report:begin NAME -->`` and ``<!-- report:end NAME -->`` are on lines of their own. NAME
    is the kind of table (``results``, ``differences``, ``cost``, ``provenance``), for one task
    ``TASK/KIND``. The file is written only if something changes, and only if every marker is valid.

    Returns:
        The names of the tables, in the order of the file.

    Raises:
        UserError: the file cannot be read or written, has no marker, an unknown name, or markers
            that do not pair.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read '{path}': {reason}", code="missing-file") from None
    blocks = list(_BLOCK.finditer(text))
    paired = {position for block in blocks for position in (block.start(), block.start("end"))}
    for marker in _MARKER.finditer(text):
        if marker.start() not in paired:
            line = text.count("\n", 0, marker.start()) + 1
            raise UserError(
                f"{path}, line {line}: '{marker.group().strip()}' is not part of a pair; each "
                "report:begin NAME needs a report:end of the same NAME after it",
                code="bad-value",
            )
    if not blocks:
        raise UserError(
            f"{path} has no table to update: put <!-- report:begin results --> and "
            "<!-- report:end results --> on lines of their own around its place",
            code="missing-data",
        )
    tables = {block["name"]: _content(path, block["name"], report) for block in blocks}
    changed = _BLOCK.sub(lambda block: f"{block[1]}\n{tables[block['name']]}\n{block[3]}", text)
    if changed != text:
        write_bytes(str(path), changed.encode("utf-8"))
    return [block["name"] for block in blocks]


def _load(
    folders: Sequence[Path], options: ReportOptions
) -> tuple[list[LocatedResult], list[Group], list[str]]:
    """Return all results, their groups and what is left out, which is logged."""
    results, unreadable = collect_results(folders)
    groups, left_out = group_results(results, mix=options.mix)
    problems = unreadable + left_out
    names = ", ".join(map(str, folders))
    if not groups and problems:
        message = f"none of the {len(problems)} results below {names} can be used; the first: "
        raise UserError(message + problems[0], code="damaged-file")
    if not groups:
        raise UserError(
            f"no {RESULTS_FILE} below {names}: no evaluation has finished there; run `make demo`, "
            "or `make pretrain` and `make eval-coco`, first",
            code="missing-file",
        )
    for problem in problems:
        logger.warning("%s", problem)
    return results, groups, problems


def _check_baseline(groups: Sequence[Group], options: ReportOptions) -> None:
    # Without runs from random initialisation the default does no harm: the report remarks on it.
    baseline = options.baseline
    rows = [row for group in groups for row in group.rows]
    known = {name for row in rows for name in (row.label, row.first.method)}
    if baseline != DEFAULT_BASELINE and baseline not in known:
        message = f"baseline '{baseline}' is not among the results; {nearest(baseline, known)}"
        raise UserError(message, code="unknown-name")
    for group in groups:
        same = group.of_method(baseline)
        if len(same) > 1 and not group.mixed and group.row(baseline) is None:
            labels = ", ".join(f"'{row.label}'" for row in same)
            message = f"baseline '{baseline}' is {len(same)} rows of {group.task}; give the label "
            raise UserError(f"{message}of one of them: {labels}", code="ambiguous-name")


def _plot_curves(group: Group, number: int, out: Path) -> ReportPicture:
    curves = {
        run.path: read_curves(run.path.with_name(METRICS_FILE), only=LOSS) for run in group.runs
    }
    title = f"{group.title}, {group.note}" if group.note else group.title
    name = "curves.svg" if number == 1 else f"curves-{number}.svg"
    plot_group(group, curves, title=title, path=out / name)
    shown = "Training loss and results" if any(curves.values()) else "Results"
    return ReportPicture(name, f"{shown}, {group.title}")


def _plot_sweeps(group: Group, number: int, out: Path) -> list[ReportPicture]:
    name = "figure5.svg" if number == 1 else f"figure5-{number}.svg"
    caption = f"Results against D and λ, {group.title}"
    return [ReportPicture(name, caption)] if plot_sweeps(group, out / name) else []


def _plot_pretraining(
    folders: Sequence[Path], results: Sequence[LocatedResult], out: Path
) -> list[ReportPicture]:
    """Plot the curves of all runs, and copy the figures that tools/figures.py made of some."""
    runs = pretraining_runs([path for path in folders if path.is_dir()], results)
    if not runs:
        return []
    curves = {label: read_curves(folder / METRICS_FILE) for label, folder in runs.items()}
    plot_pretraining(curves, title="Pretraining", path=out / "pretraining.svg")
    caption = "Losses, similarity and feature spread in pretraining"
    pictures = [ReportPicture("pretraining.svg", caption)]
    for number, (label, folder) in enumerate(runs.items(), start=1):
        for file, shows in _FIGURES.items():
            source = folder / FIGURES_FOLDER / file
            if source.is_file():
                name = f"{source.stem}-{number}{source.suffix}"
                write_bytes(out / name, source.read_bytes())
                pictures.append(ReportPicture(name, f"{label}: {shows}"))
    return pictures


def _copy_pictures(group: Group, number: int, out: Path) -> list[ReportPicture]:
    """Copy one picture per row, of its first run that has one, into ``out``."""
    pictures: list[ReportPicture] = []
    for row in group.rows:
        sources = [(run.path.with_name(PICTURE_FILE), run.result.seed) for run in row.runs]
        for source, seed in [item for item in sources if item[0].is_file()][:1]:
            caption = f"{row.label}, seed {seed}"
            slug = re.sub(r"[^A-Za-z0-9.]+", "-", caption).strip("-.")[:60]
            name = f"predictions-{number}-{len(pictures) + 1}-{slug}.png"
            write_bytes(out / name, source.read_bytes())
            pictures.append(ReportPicture(name, caption))
    return pictures


def _content(path: Path, name: str, report: Report) -> str:
    task, _, kind = name.rpartition("/")
    tasks = sorted({group.task for group in report.groups})
    if kind not in TABLES:
        hint = nearest(kind, TABLES)
        raise UserError(f"{path}: no kind of table is called '{kind}'; {hint}", code="unknown-name")
    if task and task not in tasks:
        hint = nearest(task, tasks)
        message = f"{path}: there are no results of task '{task}'; {hint}"
        raise UserError(message, code="unknown-name")
    sections = [item for item in report.sections if task in ("", item.group.task)]
    return render_markdown_tables(sections, kind)
