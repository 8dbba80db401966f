"""Accuracy and average precision by hand, against loops and against scikit-learn."""

import detectron2.utils.comm as comm
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mls_d2.evaluation.classification_evaluator import (
    ClassificationEvaluator,
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


def test_it_is_the_mean_precision_at_each_hit_or_at_eleven_points():
    found = average_precision(SCORES, TARGETS)
    assert found[:2].tolist() == pytest.approx([FIRST, SECOND])
    assert found[2].isnan()
    assert mean_average_precision(SCORES, TARGETS) == pytest.approx((FIRST + SECOND) / 2)
    assert np.isnan(mean_average_precision(SCORES, torch.zeros(4, 3).bool()))
    # First class: recall 1/3 at precision 1, 2/3 and then 1 at 3/4; second: 1/2 at 1, 1 at 2/3.
    eleven = [(4 * 1 + 7 * 0.75) / 11, (6 * 1 + 5 * 2 / 3) / 11]
    found = eleven_point_average_precision(SCORES, TARGETS)
    assert found[:2].tolist() == pytest.approx(eleven)
    assert found[2].isnan()


def test_a_recall_of_three_tenths_reaches_the_fourth_point():
    # In floating point 3 * 0.1 is more than 3 / 10.
    targets = torch.tensor([1] * 3 + [0] * 90 + [1] * 7).bool()[:, None]
    scores = torch.linspace(1, 0, 100)[:, None]
    best = 10 / 100
    expected = (4 * 1 + 7 * best) / 11
    assert eleven_point_average_precision(scores, targets).item() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
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


def evaluate(evaluator, scores, classes, difficult=None):
    evaluator.reset()
    difficult = difficult or [[] for _ in classes]
    for start in range(0, len(scores), 2):
        part = slice(start, start + 2)
        inputs = [
            {"classes": shown, "difficult": hard}
            for shown, hard in zip(classes[part], difficult[part], strict=True)
        ]
        evaluator.process(inputs, [{"scores": torch.tensor(row)} for row in scores[part]])
    return evaluator.evaluate()


def test_top1_is_the_share_of_images_whose_best_class_is_theirs():
    evaluator = ClassificationEvaluator(("a", "b", "c"), multi_label=False)
    scores = [[0.1, 0.3, 0.2], [3.0, -1.0, 2.0], [0.0, 0.0, 5.0]]
    assert evaluate(evaluator, scores, [[1], [2], [2]]) == {
        "classification": {"top1": pytest.approx(200 / 3)}
    }
    assert evaluate(evaluator, scores[:2], [[1], [0]])["classification"]["top1"] == 100.0


def test_precision_by_class_with_difficult_pairs_left_out():
    evaluator = ClassificationEvaluator(("dog", "cat", "cow"), multi_label=True)
    scores = [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.3, 0.0], [0.4, 0.9, 0.0]]
    classes = [[0], [1], [0], [0, 1]]
    found = evaluate(evaluator, scores, classes)["classification"]
    dog, cat = (1 + 2 / 3 + 3 / 4) / 3, (1 + 2 / 3) / 2
    assert found["AP-dog"] == pytest.approx(100 * dog)
    assert found["AP-cat"] == pytest.approx(100 * cat)
    assert np.isnan(found["AP-cow"])
    assert found["mAP"] == pytest.approx(50 * (dog + cat))
    eleven = ((4 + 7 * 0.75) / 11 + (6 + 5 * 2 / 3) / 11) / 2
    assert found["mAP11"] == pytest.approx(100 * eleven)
    # The dog of the second image is difficult: it is no mistake to have found it.
    # The cat of the first image is, too: it is no miss to have found it last.
    found = evaluate(evaluator, scores, classes, [[1], [0], [], []])["classification"]
    assert found["AP-dog"] == pytest.approx(100)
    assert found["AP-cat"] == pytest.approx(100 * cat)
    # Eleven points of the cat: as before.
    assert found["mAP11"] == pytest.approx(50 * (1 + (6 + 5 * 2 / 3) / 11))


@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_of_all_processes_are_compared(monkeypatch, multi_label):
    scores = [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.3, 0.0], [0.4, 0.9, 0.5], [0.7, 0.1, 0.2]]
    classes = [[0], [1], [0], [0], [2]]
    difficult = [[1], [0], [], [2], []]
    whole, first, second = (
        ClassificationEvaluator(("dog", "cat", "cow"), multi_label=multi_label) for _ in range(3)
    )
    expected = evaluate(whole, scores, classes, difficult)["classification"]
    evaluate(second, scores[3:], classes[3:], difficult[3:])
    alone = evaluate(first, scores[:3], classes[:3], difficult[:3])["classification"]
    parts = second._scores, second._classes, second._difficult
    monkeypatch.setattr(comm, "gather", lambda data, dst: [data, parts])
    assert first.evaluate()["classification"] == expected
    assert alone != expected
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert first.evaluate() == {}
