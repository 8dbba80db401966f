"""Average precision by hand, against loops and against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mls_d2.evaluation.average_precision import (
    average_precision,
    eleven_point_average_precision,
    mean_average_precision,
)

SCORES = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5], [0.1, 0.3, 0.5], [0.4, 0.9, 0.5]])
TARGETS = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]).bool()
FIRST = (1 / 1 + 2 / 3 + 3 / 4) / 3
SECOND = (1 / 1 + 2 / 3) / 2  # the third class is shown by no image


def loop(scores, targets, ignored, *, eleven):
    """VOC's definitions for one class, image by image."""
    kept = [n for n in range(len(scores)) if not ignored[n]]
    ranked = sorted(kept, key=lambda n: -scores[n])
    total = sum(bool(targets[n]) for n in kept)
    if not total:
        return float("nan")
    points, hits = [], 0
    for rank, n in enumerate(ranked, 1):
        hits += bool(targets[n])
        points.append((hits, hits / rank, bool(targets[n])))
    if eleven:
        steps = [
            max([precision for found, precision, _ in points if 10 * found >= i * total])
            for i in range(11)
        ]
        return sum(steps) / 11
    return sum(precision for _, precision, hit in points if hit) / total


def test_it_is_the_mean_precision_at_each_hit():
    found = average_precision(SCORES, TARGETS)
    assert found[:2].tolist() == pytest.approx([FIRST, SECOND])
    assert found[2].isnan()
    assert mean_average_precision(SCORES, TARGETS) == pytest.approx((FIRST + SECOND) / 2)
    assert np.isnan(mean_average_precision(SCORES, torch.zeros(4, 3).bool()))


def test_eleven_points_by_hand():
    # First class: recall 1/3 at precision 1, 2/3 and then 1 at 3/4 (the best at or beyond them).
    first = (4 * 1 + 7 * 0.75) / 11
    # Second class: recall 1/2 at precision 1, 1 at 2/3.
    second = (6 * 1 + 5 * 2 / 3) / 11
    found = eleven_point_average_precision(SCORES, TARGETS)
    assert found[:2].tolist() == pytest.approx([first, second])
    assert found[2].isnan()


def test_a_recall_of_three_tenths_reaches_the_fourth_point():
    # In floating point 3 * 0.1 is more than 3 / 10.
    targets = torch.tensor([1] * 3 + [0] * 90 + [1] * 7).bool()[:, None]
    scores = torch.linspace(1, 0, 100)[:, None]
    best = 10 / 100
    expected = (4 * 1 + 7 * best) / 11
    assert eleven_point_average_precision(scores, targets).item() == pytest.approx(expected)


def test_what_is_ignored_counts_neither_way():
    # By hand: without its second image the first class has hits at ranks 1, 2 and 3.
    ignored = torch.zeros(4, 3).bool()
    ignored[1, 0] = True
    assert average_precision(SCORES, TARGETS, ignored)[0].item() == pytest.approx(1)
    assert average_precision(SCORES, TARGETS, ignored)[1].item() == pytest.approx(SECOND)
    # Ignored positives are not missed, either.
    ignored[:, 0] = torch.tensor([True, False, True, False])
    assert average_precision(SCORES, TARGETS, ignored)[0].item() == pytest.approx(1 / 2)
    ignored[3, 0] = True
    assert average_precision(SCORES, TARGETS, ignored)[0].isnan()


@pytest.mark.parametrize("seed", range(4))
def test_random_scores_agree_with_the_loop_and_with_scikit_learn(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(37, 6, generator=generator, dtype=torch.float64)
    targets = torch.rand(37, 6, generator=generator) < 0.3
    ignored = torch.rand(37, 6, generator=generator) < 0.2
    for hidden in (None, ignored):
        marks = torch.zeros_like(ignored) if hidden is None else hidden
        for function, eleven in (
            (average_precision, False),
            (eleven_point_average_precision, True),
        ):
            found = function(scores, targets, hidden).tolist()
            columns = zip(scores.T.tolist(), targets.T.tolist(), marks.T.tolist(), strict=True)
            expected = [loop(*column, eleven=eleven) for column in columns]
            assert found == pytest.approx(expected, nan_ok=True)
        kept = [~marks[:, c] for c in range(6)]
        theirs = [
            average_precision_score(targets[keep, c], scores[keep, c])
            for c, keep in enumerate(kept)
        ]
        assert average_precision(scores, targets, hidden).tolist() == pytest.approx(theirs)
