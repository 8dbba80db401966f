"""What a report consists of, before it is written in one format or another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mls_d2.report.groups import Group
from mls_d2.report.results import LocatedResult


@dataclasses.dataclass(frozen=True)
class Picture:
    """A file in the report's folder."""

    file: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Section:
    """One group of results with its pictures."""

    group: Group
    curves: Picture
    detections: Sequence[Picture]
    """One a run that left a picture; may be empty."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a report shows."""

    sections: Sequence[Section]
    pretraining: Picture | None
    """None where no pretraining run was found."""
    problems: Sequence[str]
    """One message for each result that was left out."""

    @property
    def groups(self) -> list[Group]:
        """The groups of all sections."""
        return [section.group for section in self.sections]

    @property
    def runs(self) -> list[LocatedResult]:
        """Every run that the report shows."""
        return [run for group in self.groups for row in group.rows for run in row.runs]

    @property
    def banners(self) -> list[str]:
        """What a reader must know before any number."""
        results = [run.result for run in self.runs]
        banners = []
        if any(result.dataset["synthetic"] for result in results):
            banners.append("SYNTHETIC SCENES: generated pictures, not photographs.")
        elif any(result.backbone["info"].get("synthetic") for result in results):
            banners.append("SYNTHETIC SCENES: backbones pretrained on generated pictures.")
        if any(result.preset == "quick" for result in results):
            banners.append("SHORTENED SCHEDULE: not comparable with published numbers.")
        return banners
