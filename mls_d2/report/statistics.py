"""Mean and spread over repeated runs, and differences between methods."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation and number of runs.

    ``mean`` is NaN without runs, ``std`` is NaN with fewer than two.
    """

    mean: float
    std: float
    n: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean difference to a baseline and the standard deviation of one run's difference.

    ``paired`` says that ``std`` comes from the differences seed by seed.
    """

    mean: float
    std: float
    n: int
    paired: bool


def summarize(values: Sequence[float]) -> Summary:
    """Return mean, sample standard deviation (n - 1) and n of the finite ``values``."""
    finite = [value for value in values if math.isfinite(value)]
    mean = statistics.fmean(finite) if finite else math.nan
    std = statistics.stdev(finite) if len(finite) > 1 else math.nan
    return Summary(mean, std, len(finite))


def difference(
    values: Sequence[tuple[int, float]], baseline: Sequence[tuple[int, float]]
) -> Difference:
    """Return how much higher ``values`` are than ``baseline``.

    Runs are paired by seed where both sides have the same seeds, each once. Otherwise the
    difference of the means is given, with ``sqrt(std_values**2 + std_baseline**2)``.

    Args:
        values: ``(seed, value)`` of each run; values that are not finite are left out.
        baseline: the same of the method to compare with.
    """
    ours = [(seed, value) for seed, value in values if math.isfinite(value)]
    theirs = [(seed, value) for seed, value in baseline if math.isfinite(value)]
    seeds = {seed for seed, _ in ours}
    if len(seeds) == len(ours) == len(theirs) and seeds == {seed for seed, _ in theirs}:
        reference = dict(theirs)
        paired = summarize([value - reference[seed] for seed, value in ours])
        return Difference(paired.mean, paired.std, paired.n, paired=True)
    first, second = (summarize([value for _, value in runs]) for runs in (ours, theirs))
    return Difference(
        first.mean - second.mean,
        math.hypot(first.std, second.std),
        min(first.n, second.n),
        paired=False,
    )
