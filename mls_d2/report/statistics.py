"""Mean and spread over repeated runs, and t-tests of differences between methods."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np
from scipy import stats

ALPHA = 0.05  # a difference is significant if its p value is below this
MIN_RUNS = 3  # no test with fewer runs on a side: with two, hardly any difference is found
PAIRED_TEST = "paired t-test"
WELCH_TEST = "Welch's t-test"

Runs = Sequence[tuple[int, float]]
"""``(seed, value)`` of each run; values that are not finite do not count as runs."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """Mean (NaN without runs), sample standard deviation (NaN below two runs), number of runs."""

    mean: float
    std: float
    n: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean difference to a baseline and the standard deviation of one run's difference."""

    mean: float
    std: float
    n: int  # runs of the side that has fewer
    paired: bool  # ``std`` and ``p`` come from the differences seed by seed
    p: float = math.nan  # two-sided; NaN if no test was made

    @property
    def test(self) -> str:
        """The test that ``p`` comes from; empty if none was made."""
        if math.isnan(self.p):
            return ""
        return PAIRED_TEST if self.paired else WELCH_TEST

    @property
    def significant(self) -> bool:
        """Whether a test was made and ``p`` is below ALPHA."""
        return self.p < ALPHA

    @property
    def verdict(self) -> str:
        """``"significant"``, ``"not significant"``, or why no test was made."""
        if self.n < MIN_RUNS:
            return f"n too small ({self.n})"
        if math.isnan(self.p):
            return "no spread to test"
        return "significant" if self.significant else "not significant"


def summarize(values: Sequence[float]) -> Summary:
    """Return mean, sample standard deviation (n - 1) and number of the finite ``values``."""
    finite = [value for value in values if math.isfinite(value)]
    mean = statistics.fmean(finite) if finite else math.nan
    std = float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan
    return Summary(mean, std, len(finite))


def difference(values: Runs, baseline: Runs) -> Difference:
    """Return how much higher ``values`` are than ``baseline``, and the p value of a t-test.

    Runs are paired by seed if both sides have the same seeds, each once. Otherwise the spread is
    ``sqrt(std_values**2 + std_baseline**2)`` and the test is Welch's, which does not assume equal
    variances. Both tests are two-sided and assume normally distributed runs. None is made with
    fewer than :data:`MIN_RUNS` runs on a side, or if the runs do not differ at all.
    """
    ours = sorted((seed, value) for seed, value in values if math.isfinite(value))
    theirs = sorted((seed, value) for seed, value in baseline if math.isfinite(value))
    seeds = [seed for seed, _ in ours]
    one, other = [value for _, value in ours], [value for _, value in theirs]
    if len(set(seeds)) == len(seeds) and seeds == [seed for seed, _ in theirs]:
        paired = summarize([mine - reference for mine, reference in zip(one, other, strict=True)])
        testable = paired.n >= MIN_RUNS and not _constant(paired)
        p = float(stats.ttest_rel(one, other).pvalue) if testable else math.nan
        return Difference(paired.mean, paired.std, paired.n, paired=True, p=p)
    first, second = summarize(one), summarize(other)
    n = min(first.n, second.n)
    testable = n >= MIN_RUNS and not (_constant(first) and _constant(second))
    p = float(stats.ttest_ind(one, other, equal_var=False).pvalue) if testable else math.nan
    std = math.hypot(first.std, second.std)
    return Difference(first.mean - second.mean, std, n, paired=False, p=p)


def _constant(summary: Summary) -> bool:
    """Whether the runs differ by no more than rounding."""
    return summary.std <= 1e-9 * max(1.0, abs(summary.mean))
