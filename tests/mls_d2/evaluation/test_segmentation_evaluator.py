"""Metrics by hand on tiny maps, and against cityscapesscripts on files."""

import math

import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import cv2
import detectron2.utils.comm as comm
import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import trainId2label
from detectron2.data import DatasetCatalog, MetadataCatalog

from mls_d2.evaluation.segmentation_evaluator import (
    SegmentationEvaluator,
    confusion_matrix,
    metrics_of,
)

NAMES = ("a", "b", "c", "d")


def test_by_hand():
    #        truth: a a a b        prediction: a a b b
    #               b c 255 255                b a c b
    truth = np.array([[0, 0, 0, 1], [1, 2, 255, 255]], np.uint8)
    predicted = np.array([[0, 0, 1, 1], [1, 0, 2, 1]])
    confusion = confusion_matrix(predicted, truth, 4)
    assert confusion.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    metrics = metrics_of(confusion, NAMES)
    assert metrics["IoU-a"] == pytest.approx(100 * 2 / 4)
    assert metrics["IoU-b"] == pytest.approx(100 * 2 / 3)
    assert metrics["IoU-c"] == 0
    assert math.isnan(metrics["IoU-d"])
    assert metrics["mIoU"] == pytest.approx(100 * (1 / 2 + 2 / 3 + 0) / 3)
    assert metrics["mAcc"] == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
    assert metrics["aAcc"] == pytest.approx(100 * 4 / 6)


def test_a_class_that_is_only_predicted_counts_for_iou_but_not_for_accuracy():
    metrics = metrics_of(confusion_matrix(np.array([0, 3]), np.array([0, 0]), 4), NAMES)
    assert metrics["IoU-d"] == 0
    assert metrics["mIoU"] == pytest.approx((50 + 0) / 2)
    assert metrics["mAcc"] == pytest.approx(50)


def test_nothing_but_ignored_pixels_is_nan():
    metrics = metrics_of(confusion_matrix(np.array([0]), np.array([255]), 4), NAMES)
    assert all(math.isnan(value) for value in metrics.values())


@pytest.fixture
def evaluated(tmp_path):
    """Four images with truth and noisy predictions as files, and our metrics of them."""
    rng = np.random.default_rng(0)
    name = "eval_sem_seg"
    DatasetCatalog.register(name, list)
    classes = [trainId2label[index].name for index in range(19)]
    MetadataCatalog.get(name).set(stuff_classes=classes, ignore_label=255)
    evaluator = SegmentationEvaluator(name)
    files = []
    for index in range(4):
        # Classes 17 and 18 are nowhere; 16 is predicted only.
        truth = rng.integers(0, 16, (12, 20)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
        truth[rng.random(truth.shape) < 0.1] = 255
        wrong = rng.random(truth.shape) < 0.3
        predicted = np.where(wrong | (truth == 255), rng.integers(0, 17, truth.shape), truth)
        label_ids = [np.zeros_like(truth), np.zeros_like(truth)]
        for train_id in range(19):
            for image, ids in zip(label_ids, (truth, predicted), strict=True):
                image[ids == train_id] = trainId2label[train_id].id
        stem = str(tmp_path / f"town_{index:06d}_000019")
        paths = [f"{stem}_{kind}.png" for kind in ("truth", "gtFine_labelIds", "predicted")]
        for path, image in zip(paths, (truth, *label_ids), strict=True):
            cv2.imwrite(path, image)
        cv2.imwrite(f"{stem}_gtFine_instanceIds.png", label_ids[0].astype(np.uint16))
        files.append(paths)
        logits = torch.nn.functional.one_hot(torch.from_numpy(predicted).long(), 19)
        output = {"sem_seg": logits.permute(2, 0, 1).float()}
        evaluator.process([{"sem_seg_file_name": paths[0]}], [output])
    return evaluator.evaluate()["sem_seg"], files


def test_iou_is_that_of_cityscapesscripts(evaluated, monkeypatch):
    metrics, files = evaluated
    monkeypatch.setattr(official.args, "JSONOutput", False)
    monkeypatch.setattr(official.args, "quiet", True)
    monkeypatch.setattr(official.args, "evalInstLevelScore", False)
    _, truths, predictions = map(list, zip(*files, strict=True))
    theirs = official.evaluateImgLists(predictions, truths, official.args)
    assert metrics["mIoU"] == pytest.approx(100 * theirs["averageScoreClasses"])
    assert 10 < metrics["mIoU"] < 70
    for name, score in theirs["classScores"].items():
        if f"IoU-{name}" in metrics:
            assert metrics[f"IoU-{name}"] == pytest.approx(100 * score, nan_ok=True)
    assert metrics["IoU-train"] == 0
    assert math.isnan(metrics["IoU-bicycle"])


def test_predictions_of_another_size_are_refused(evaluated, refuses):
    _, files = evaluated
    evaluator = SegmentationEvaluator("eval_sem_seg")
    output = {"sem_seg": torch.zeros(19, 3, 4)}
    with refuses("damaged-file"):
        evaluator.process([{"sem_seg_file_name": files[0][0]}], [output])


def test_pixels_of_all_processes_are_counted(evaluated, monkeypatch):
    _, files = evaluated
    whole, first, second = (SegmentationEvaluator("eval_sem_seg") for _ in range(3))
    for index, (truth, *_) in enumerate(files):
        labels = cv2.imread(truth, cv2.IMREAD_UNCHANGED)
        # Each image is right by another share.
        guess = np.where(np.arange(labels.shape[1]) < 20 * index, 3, labels % 19)
        logits = torch.nn.functional.one_hot(torch.from_numpy(guess).long(), 19)
        output = {"sem_seg": logits.permute(2, 0, 1).float()}
        for evaluator in (whole, first if index < 3 else second):
            evaluator.process([{"sem_seg_file_name": truth}], [output])
    expected = whole.evaluate()["sem_seg"]
    alone = first.evaluate()["sem_seg"]
    monkeypatch.setattr(comm, "gather", lambda data, dst: [data, second._confusion])
    assert first.evaluate()["sem_seg"] == pytest.approx(expected, nan_ok=True)
    assert alone["aAcc"] > expected["aAcc"] + 1
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert first.evaluate() == {}
