"""What a reader of a report may choose."""

from __future__ import annotations

import dataclasses

from mls_d2.report.published_file import Published, builtin_published

DEFAULT_BASELINE = "random"
"""The method that differences are taken to."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a reader may choose."""

    baseline: str = DEFAULT_BASELINE
    """A method, or the label of a row."""
    mix: bool = False
    """Whether results that are not comparable may stand in one table."""
    published: Published = dataclasses.field(default_factory=builtin_published)
    """What to set beside our numbers."""
