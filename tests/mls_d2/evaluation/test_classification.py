"""Accuracy and average precision of batches, with what is difficult left out."""

import detectron2.utils.comm as comm
import numpy as np
import pytest
import torch

from mls_d2.evaluation.classification import ClassificationEvaluator


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
