"""From folders of finished runs to a folder with a report."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import atomic_write, check_writable
from mls_d2.report.curves import METRICS_FILE, pretraining_folders, read_curves
from mls_d2.report.document import Picture, Report
from mls_d2.report.groups import Group, group_results
from mls_d2.report.html import render_html
from mls_d2.report.latex import render_latex
from mls_d2.report.markdown import render
from mls_d2.report.options import DEFAULT_BASELINE, Options
from mls_d2.report.plots import LOSS, Curves, plot_group, plot_pretraining
from mls_d2.report.sections import make_section
from mls_d2.report.spreadsheet import results_csv
from mls_d2.results.schema import LocatedResult, collect_results

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
"""The file to open first."""

MARKDOWN_FILE = "report.md"

PICTURE_FILE = "predictions.png"
"""The picture that an evaluation may leave beside its ``results.json``."""


def write_report(folders: Sequence[Path], out: Path, options: Options | None = None) -> Report:
    """Write ``report.html``, ``report.md``, ``results.csv``, ``results.tex`` and their pictures.

    Args:
        folders: folders to search for ``results.json``, or such files.
        out: the folder to write; it is created. Files of an earlier report are replaced.
        options: what a reader may choose.

    Returns:
        What was written.

    Raises:
        UserError: if a folder does not exist, no usable result is found, the baseline is not among
            the results or is several rows of one table, or ``out`` cannot be written.
    """
    options = options or Options()
    results, problems = collect_results(folders)
    groups, left_out = group_results(results, mix=options.mix)
    problems += left_out
    if not groups:
        raise _nothing_to_report(folders, problems)
    _check_baseline(groups, options)
    for problem in problems:
        logger.warning("%s", problem)
    check_writable(str(out))
    sections = [
        make_section(
            group,
            options,
            curves=_plot_curves(group, number, out),
            pictures=_copy_pictures(group, number, out),
            out=out,
        )
        for number, group in enumerate(groups, start=1)
    ]
    pretraining = _plot_pretraining(folders, results, out)
    report = Report(sections, pretraining, problems, options)
    for line in report.disagreements:
        logger.warning("%s", line)
    _write_text(out / "results.csv", results_csv(groups))
    _write_text(out / "results.tex", render_latex(report))
    _write_text(out / MARKDOWN_FILE, render(report))
    _write_text(out / REPORT_FILE, render_html(report, out))
    return report


def _check_baseline(groups: Sequence[Group], options: Options) -> None:
    # Without runs from random initialisation the default does no harm: the report says so.
    known = {
        name for group in groups for row in group.rows for name in (row.label, row.first.method)
    }
    if options.baseline != DEFAULT_BASELINE and options.baseline not in known:
        raise UserError(
            f"baseline '{options.baseline}' is not among the results; "
            f"{nearest(options.baseline, known)}"
        )
    for group in groups:
        rows = group.of_method(options.baseline)
        if len(rows) > 1 and not group.mixed and group.row(options.baseline) is None:
            labels = ", ".join(f"'{row.label}'" for row in rows)
            raise UserError(
                f"baseline '{options.baseline}' is {len(rows)} rows of {group.task}; give the "
                f"label of one of them: {labels}"
            )


def _nothing_to_report(folders: Sequence[Path], problems: Sequence[str]) -> UserError:
    where = ", ".join(str(folder) for folder in folders)
    if problems:
        return UserError(
            f"none of the {len(problems)} results below {where} can be used; the first: "
            f"{problems[0]}"
        )
    return UserError(
        f"no results.json below {where}: no evaluation has finished there; run `make demo`, or "
        "`make pretrain` and `make eval-coco`, first"
    )


def _plot_curves(group: Group, number: int, out: Path) -> Picture:
    curves = {
        run.path: read_curves(run.path.with_name(METRICS_FILE), only=LOSS) for run in group.runs
    }
    facts = [group.task, f"preset {group.preset}"]
    facts += ["synthetic scenes"] if group.synthetic else []
    facts += [group.note] if group.note else []
    title = ", ".join(facts)
    stem = out / ("curves" if number == 1 else f"curves-{number}")
    plot = plot_group(group, curves, title=title, stem=stem)
    return Picture(plot.name, f"Training loss and results, {group.task}, preset {group.preset}")


def _plot_pretraining(
    folders: Sequence[Path], results: Sequence[LocatedResult], out: Path
) -> Picture | None:
    found = pretraining_folders([path for path in folders if path.is_dir()], results)
    if not found:
        return None
    plot = plot_pretraining(_labelled(found), title="Pretraining", stem=out / "pretraining")
    return Picture(plot.name, "Losses, similarity and feature spread in pretraining")


def _labelled(found: Mapping[Path, Curves]) -> dict[str, Curves]:
    """Label runs with their folder's name, or with the whole path where names repeat."""
    names = [folder.name for folder in found]
    return {
        folder.name if names.count(folder.name) == 1 else str(folder): curves
        for folder, curves in found.items()
    }


def _copy_pictures(group: Group, number: int, out: Path) -> list[Picture]:
    """Copy one picture a row, of its first run that has one, into ``out``."""
    pictures: list[Picture] = []
    for row in group.rows:
        having = [run for run in row.runs if run.path.with_name(PICTURE_FILE).is_file()]
        for run in having[:1]:
            caption = f"{row.label}, seed {run.result.seed}"
            name = f"predictions-{number}-{len(pictures) + 1}-{_slug(caption)}.png"
            source = run.path.with_name(PICTURE_FILE)
            with source.open("rb") as read, atomic_write(str(out / name)) as written:
                shutil.copyfileobj(read, written)
            pictures.append(Picture(name, caption))
    return pictures


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:60]


def _write_text(path: Path, text: str) -> None:
    with atomic_write(str(path), "w") as file:
        file.write(text)
