"""Mean and spread over repeated runs, differences between methods, and whether they are chance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from scipy import special  # scipy.stats takes seconds to import

ALPHA = 0.05
"""A difference counts as significant where p is below this."""

MIN_RUNS = 3
"""Runs on either side below which no test is made: with two, hardly any difference is found."""

PAIRED_TEST = "paired t-test"
WELCH_TEST = "Welch's t-test"

Runs = Sequence[tuple[int, float]]
"""``(seed, value)`` of each run; a value that is not finite is no run."""


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

    ``paired`` says that ``std`` and ``p`` come from the differences seed by seed.
    """

    mean: float
    std: float
    n: int
    """Of the side with fewer runs."""
    paired: bool
    p: float = math.nan
    """Two-sided p value of :attr:`test`; NaN where none was made."""

    @property
    def test(self) -> str:
        """The test that ``p`` comes from; empty where none was made."""
        if math.isnan(self.p):
            return ""
        return PAIRED_TEST if self.paired else WELCH_TEST

    @property
    def significant(self) -> bool:
        """Whether a test was made and ``p`` is below :data:`ALPHA`."""
        return self.p < ALPHA

    @property
    def verdict(self) -> str:
        """``"significant"``, ``"not significant"``, or why that cannot be said."""
        if self.n < MIN_RUNS:
            return f"n too small ({self.n})"
        if math.isnan(self.p):
            return "no spread to test"
        return "significant" if self.significant else "not significant"


def summarize(values: Sequence[float]) -> Summary:
    """Return mean, sample standard deviation (n - 1) and n of the finite ``values``."""
    finite = [value for value in values if math.isfinite(value)]
    n = len(finite)
    mean = math.fsum(finite) / n if n else math.nan
    # The standard library's statistics is exact, and a hundred times slower.
    squares = math.fsum((value - mean) ** 2 for value in finite)
    return Summary(mean, math.sqrt(squares / (n - 1)) if n > 1 else math.nan, n)


def difference(values: Runs, baseline: Runs) -> Difference:
    """Return how much higher ``values`` are than ``baseline``, and how likely that is chance.

    Where both sides have the same seeds, each once, runs are paired by seed and the test is the
    paired t-test. Otherwise the difference of the means is given, with
    ``sqrt(std_values**2 + std_baseline**2)``, and the test is Welch's, which does not take the
    variances for equal. Both are two-sided and take the runs for normally distributed. With fewer
    than :data:`MIN_RUNS` runs on a side, or runs that do not differ at all, there is no test.
    """
    ours = [(seed, value) for seed, value in values if math.isfinite(value)]
    theirs = [(seed, value) for seed, value in baseline if math.isfinite(value)]
    seeds = {seed for seed, _ in ours}
    if len(seeds) == len(ours) == len(theirs) and seeds == {seed for seed, _ in theirs}:
        reference = dict(theirs)
        paired = summarize([value - reference[seed] for seed, value in ours])
        return Difference(paired.mean, paired.std, paired.n, paired=True, p=_paired_p(paired))
    first, second = (summarize([value for _, value in runs]) for runs in (ours, theirs))
    return Difference(
        first.mean - second.mean,
        math.hypot(first.std, second.std),
        min(first.n, second.n),
        paired=False,
        p=_welch_p(first, second),
    )


def _paired_p(differences: Summary) -> float:
    if differences.n < MIN_RUNS or _constant(differences):
        return math.nan
    error = differences.std / math.sqrt(differences.n)
    return _two_sided(differences.mean / error, differences.n - 1)


def _welch_p(first: Summary, second: Summary) -> float:
    if min(first.n, second.n) < MIN_RUNS or (_constant(first) and _constant(second)):
        return math.nan
    errors = first.std**2 / first.n, second.std**2 / second.n
    # Welch-Satterthwaite
    freedom = sum(errors) ** 2 / (errors[0] ** 2 / (first.n - 1) + errors[1] ** 2 / (second.n - 1))
    return _two_sided((first.mean - second.mean) / math.sqrt(sum(errors)), freedom)


def _constant(summary: Summary) -> bool:
    """Whether the runs differ by no more than rounding."""
    return summary.std <= 1e-9 * max(1.0, abs(summary.mean))


def _two_sided(t: float, freedom: float) -> float:
    return float(2 * special.stdtr(freedom, -abs(t)))
