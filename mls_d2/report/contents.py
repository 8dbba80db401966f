"""The contents of a report, before they are rendered in one format or another."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from mls_d2.report.groups import Group, is_synthetic
from mls_d2.report.published import Published, is_shortened, published_beside
from mls_d2.report.statistics import ALPHA, MIN_RUNS
from mls_d2.report.tables import (
    ReportOptions,
    Table,
    baseline_of,
    cost_table,
    differences_table,
    group_not_comparable,
    provenance_table,
    results_table,
)
from mls_d2.results.schema import LocatedResult

TABLES = ("results", "differences", "cost", "provenance")
"""The kinds of tables of a group."""

LEGEND = (
    "Numbers are mean ± sample standard deviation over n runs, in percent. Bold: significantly "
    f"above every other row. *: significantly different from the baseline. Two-sided t-tests at "
    f"p < {ALPHA:g}, not corrected for the number of comparisons, with at least {MIN_RUNS} runs "
    "on each side."
)
"""How to read the tables."""


@dataclasses.dataclass(frozen=True)
class ReportPicture:
    """A file in the report's folder."""

    file: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Section:
    """One group of results with all that is shown of it."""

    group: Group
    baseline: str
    marks: Sequence[str]  # sentences for every table of the group, first of all that it is mixed
    remarks: Sequence[str]  # further sentences above the table of results
    footnotes: Sequence[str]  # sentences under the table of results
    tables: Mapping[str, Table | None]  # by kind, one of TABLES; None if it would be empty
    curves: Sequence[ReportPicture]  # training loss and results; Figure 5 if there are its runs
    pictures: Sequence[ReportPicture]  # predictions of the models, one per row; may be empty

    @property
    def evaluated_on(self) -> str:
        """The data of the first row in words."""
        data = self.group.rows[0].first.dataset
        images = f"{data.num_images} images{', synthetic' if data.synthetic else ''}"
        return f"Evaluated on {data.name}, {images}, fingerprint {data.fingerprint}."


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a report shows."""

    sections: Sequence[Section]
    pretraining: Sequence[ReportPicture]  # curves and figures; empty if no run was found
    problems: Sequence[str]  # one message for each result that was left out
    options: ReportOptions = dataclasses.field(default_factory=ReportOptions)

    @property
    def groups(self) -> list[Group]:
        """The groups of all sections."""
        return [section.group for section in self.sections]

    @property
    def runs(self) -> list[LocatedResult]:
        """Every run that the report shows."""
        return [run for group in self.groups for run in group.runs]

    @property
    def disagreements(self) -> list[str]:
        """One message for each pair of runs that should have given the same numbers."""
        return [line for group in self.groups for line in group.disagreements]

    @property
    def banners(self) -> list[str]:
        """Warnings that hold for the whole report."""
        results = [run.result for run in self.runs]
        generated = [result.dataset.synthetic for result in results]
        short = [is_shortened(result, self.options.published) for result in results]
        banners = []
        if any(generated):
            some = _in_some(generated)
            banners.append(f"SYNTHETIC SCENES: generated pictures, not photographs{some}.")
        elif any(map(is_synthetic, results)):
            banners.append("SYNTHETIC SCENES: backbones pretrained on generated pictures.")
        if any(short):
            some = _in_some(short)
            banners.append(f"SHORTENED SCHEDULE: not comparable with published numbers{some}.")
        if any(group.mixed for group in self.groups):
            banners.append("MIXED TABLES: some rows differ in more than the method.")
        if self.disagreements:
            number = len(self.disagreements)
            banners.append(f"DISAGREEING RESULTS: {number} repeated runs gave other numbers.")
        return banners


def make_section(
    group: Group,
    options: ReportOptions,
    curves: Sequence[ReportPicture],
    pictures: Sequence[ReportPicture] = (),
    out: Path | None = None,
) -> Section:
    """Return ``group`` with its tables, with links if ``out``, the report's folder, is given."""
    marks = []
    if group.mixed:
        marks.append(
            "MIXED: these rows are not comparable. "
            f"They differ in {group.mixed}; no difference between them is taken."
        )
    if group.note:
        marks.append(
            "Not comparable with the other tables of this task. "
            f"What differs in these runs: {group.note}."
        )
    reason = group_not_comparable(group, options.published)
    if reason:
        marks.append(f"Not comparable with published numbers: {reason}.")
    remarks = [] if reason else _sources(group, options.published)
    if baseline_of(group, options) is None and not group.mixed:
        remarks.append(
            f"No run of the baseline, {options.baseline}, is among these, so no difference to it "
            "is shown."
        )
    tables = {
        "results": results_table(group, options),
        "differences": differences_table(group, options),
        "cost": cost_table(group),
        "provenance": provenance_table(group, out),
    }
    notes = _footnotes(group)
    return Section(group, options.baseline, marks, remarks, notes, tables, curves, pictures)


def _sources(group: Group, published: Published) -> list[str]:
    """Return the sources of the numbers printed beside those of ``group``, and their notes."""
    beside = [published_beside(row.first, published) for row in group.rows]
    matched = [row for row in beside if row is not None]
    tables: dict[str, dict[str, None]] = {}
    for row in matched or published.of_task(group.task):
        tables.setdefault(row.source, {})[row.table] = None
    sources = "; ".join(
        f"Table{'s' * (len(names) > 1)} {', '.join(names)} of {source}"
        for source, names in tables.items()
    )
    notes = dict.fromkeys(row.note for row in matched if row.note)
    return [f"Published numbers: {sources}."] * bool(sources) + list(notes)


def _footnotes(group: Group) -> list[str]:
    """Return what the spread over runs leaves out: that of pretraining, if it has one seed."""
    once = [
        row.first.method
        for row in group.rows
        if len(row.runs) > 1 and row.first.backbone.sha256
        if len({run.result.backbone.sha256 for run in row.runs}) == 1
    ]
    if not once:
        return []
    return [
        f"Pretrained with one seed: {', '.join(dict.fromkeys(once))}. The spread of these rows, "
        "and every test with them, covers the fine-tuning alone, not the pretraining."
    ]


def _in_some(flags: Sequence[bool]) -> str:
    return "" if all(flags) else f" ({sum(flags)} of {len(flags)} runs)"
