"""From folders of finished runs to a folder with a report."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from mls_d2.engine.files import atomic_write, check_writable
from mls_d2.errors import UserError
from mls_d2.report.curves import METRICS_FILE, pretraining_folders, read_curves
from mls_d2.report.document import Picture, Report, Section
from mls_d2.report.groups import Group, group_results
from mls_d2.report.markdown import render
from mls_d2.report.plots import Curves, plot_group, plot_pretraining
from mls_d2.report.results import LocatedResult, collect_results
from mls_d2.report.spreadsheet import results_csv

logger = logging.getLogger(__name__)

REPORT_FILE = "report.md"
"""The file to open first."""

PICTURE_FILE = "predictions.png"
"""The picture that an evaluation may leave beside its ``results.json``."""


def write_report(folders: Sequence[Path], out: Path) -> Report:
    """Write ``report.md``, ``results.csv`` and their pictures.

    Args:
        folders: folders to search for ``results.json``, or such files.
        out: the folder to write; it is created. Files of an earlier report are replaced.

    Returns:
        What was written.

    Raises:
        UserError: if a folder does not exist, no usable result is found, or ``out`` cannot be
            written.
    """
    results, problems = collect_results(folders)
    groups, left_out = group_results(results)
    problems += left_out
    if not groups:
        raise _nothing_to_report(folders, problems)
    for problem in problems:
        logger.warning("%s", problem)
    check_writable(str(out))
    detections = _copy_detections(groups, out)
    sections = [
        Section(group, _plot_curves(group, number, out), _of_group(group, detections))
        for number, group in enumerate(groups, start=1)
    ]
    report = Report(sections, _plot_pretraining(folders, results, out), problems)
    _write_text(out / "results.csv", results_csv(groups))
    _write_text(out / REPORT_FILE, render(report))
    return report


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
        run.path: read_curves(run.path.with_name(METRICS_FILE))
        for row in group.rows
        for run in row.runs
    }
    facts = [group.task, f"preset {group.preset}"]
    facts += ["synthetic scenes"] if group.synthetic else []
    facts += [group.note] if group.note else []
    title = ", ".join(facts)
    stem = out / ("curves" if number == 1 else f"curves-{number}")
    plot_group(group, curves, title=title, stem=stem)
    return Picture(f"{stem.name}.png", f"Training loss and results, {title}")


def _plot_pretraining(
    folders: Sequence[Path], results: Sequence[LocatedResult], out: Path
) -> Picture | None:
    found = pretraining_folders([path for path in folders if path.is_dir()], results)
    if not found:
        return None
    plot_pretraining(_labelled(found), title="Pretraining", stem=out / "pretraining")
    return Picture("pretraining.png", "Losses, InfoNCE accuracy and feature spread in pretraining")


def _labelled(found: Mapping[Path, Curves]) -> dict[str, Curves]:
    """Label runs with their folder's name, or with the whole path where names repeat."""
    names = [folder.name for folder in found]
    return {
        folder.name if names.count(folder.name) == 1 else str(folder): curves
        for folder, curves in found.items()
    }


def _copy_detections(groups: Sequence[Group], out: Path) -> dict[Path, Picture]:
    """Copy the pictures of all runs into ``out``; returns result file to picture."""
    pictures: dict[Path, Picture] = {}
    for number, group in enumerate(groups, start=1):
        for row in group.rows:
            for run in row.runs:
                source = run.path.with_name(PICTURE_FILE)
                if not source.is_file():
                    continue
                caption = f"{row.label}, seed {run.result.seed}"
                prefix = f"detections-{number}-{len(pictures) + 1}"
                target = out / f"{prefix}-{_slug(caption)}.png"
                with source.open("rb") as read, atomic_write(str(target)) as written:
                    shutil.copyfileobj(read, written)
                pictures[run.path] = Picture(target.name, caption)
    return pictures


def _of_group(group: Group, pictures: Mapping[Path, Picture]) -> list[Picture]:
    paths = [run.path for row in group.rows for run in row.runs]
    return [pictures[path] for path in paths if path in pictures]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:60]


def _write_text(path: Path, text: str) -> None:
    with atomic_write(str(path), "w") as file:
        file.write(text)
