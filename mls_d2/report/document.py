"""What a report consists of, before it is written in one format or another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mls_d2.report.cells import Table
from mls_d2.report.groups import Group
from mls_d2.report.options import Options
from mls_d2.report.published import is_shortened
from mls_d2.results.schema import Dataset, LocatedResult


@dataclasses.dataclass(frozen=True)
class Picture:
    """A file in the report's folder."""

    file: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is said above the tables of a group."""

    group: Group
    title: str
    baseline: str
    has_baseline: bool
    not_comparable: str
    """Why no published numbers stand beside; empty where they do."""
    references: Sequence[str]
    """Where those stand."""
    dataset: Dataset


@dataclasses.dataclass(frozen=True)
class Section:
    """One group of results with all that is shown of it."""

    facts: Facts
    tables: Mapping[str, Table | None]
    """By kind, as in ``sections.TABLES``; None where there is nothing to put in it."""
    curves: Picture
    pictures: Sequence[Picture]
    """What the models find, one a row; may be empty."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a report shows."""

    sections: Sequence[Section]
    pretraining: Picture | None
    """None where no pretraining run was found."""
    problems: Sequence[str]
    """One message for each result that was left out."""
    options: Options = dataclasses.field(default_factory=Options)

    @property
    def groups(self) -> list[Group]:
        """The groups of all sections."""
        return [section.facts.group for section in self.sections]

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
        """What a reader must know before any number."""
        protocols = self.options.published.protocols
        results = [run.result for run in self.runs]
        generated = [result.dataset["synthetic"] for result in results]
        pretrained = [bool(result.backbone["info"].get("synthetic")) for result in results]
        short = [is_shortened(result, protocols) for result in results]
        banners = []
        if any(generated):
            where = _in_some(generated)
            banners.append(f"SYNTHETIC SCENES: generated pictures, not photographs{where}.")
        elif any(pretrained):
            banners.append("SYNTHETIC SCENES: backbones pretrained on generated pictures.")
        if any(short):
            where = _in_some(short)
            banners.append(f"SHORTENED SCHEDULE: not comparable with published numbers{where}.")
        if any(group.mixed for group in self.groups):
            banners.append("MIXED TABLES: some rows differ in more than the method.")
        if self.disagreements:
            banners.append(
                f"DISAGREEING RESULTS: {len(self.disagreements)} repeated runs gave other numbers."
            )
        return banners


def _in_some(flags: Sequence[bool]) -> str:
    return "" if all(flags) else f" ({sum(flags)} of {len(flags)} runs)"
