"""What is drawn over an image."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from mls_d2.core.errors import UserError
from mls_d2.evaluation.drawing import draw_output, overlay

IMAGE = np.full((48, 64, 3), 100, np.uint8)


def instances(score):
    found = Instances((48, 64))
    found.pred_boxes = Boxes(torch.tensor([[10.0, 10, 40, 40]]))
    found.scores = torch.tensor([score])
    found.pred_classes = torch.tensor([1])
    return {"instances": found}


def test_colours_of_classes_are_mixed_by_hand():
    labels = np.array([[0, 1]])
    palette = np.array([[0, 0, 0], [250, 50, 0]])
    mixed = overlay(IMAGE[:1, :2], labels, palette)
    assert mixed.tolist() == [[[40, 40, 40], [190, 70, 40]]]


def test_segmentation_is_drawn_in_the_datasets_colours():
    scores = torch.zeros(2, 48, 64)
    scores[1, :, 32:] = 1
    metadata = Metadata(stuff_colors=[(0, 0, 0), (255, 0, 0)])
    drawn = draw_output(IMAGE, {"sem_seg": scores}, metadata, min_score=0.5)
    assert drawn.shape == IMAGE.shape
    assert np.unique(drawn[:, :32].reshape(-1, 3), axis=0).tolist() == [[40, 40, 40]]
    assert np.unique(drawn[:, 32:].reshape(-1, 3), axis=0).tolist() == [[193, 40, 40]]


def test_more_classes_than_colours_still_have_one_each():
    scores = torch.nn.functional.one_hot(torch.arange(100)).T.reshape(100, 1, 100).float()
    drawn = draw_output(
        np.zeros((1, 100, 3), np.uint8), {"sem_seg": scores}, Metadata(), min_score=0
    )
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize(("score", "seen"), [(0.9, True), (0.2, False)])
def test_only_detections_that_are_sure_enough_are_drawn(score, seen):
    drawn = draw_output(IMAGE, instances(score), Metadata(thing_classes=["a", "b"]), min_score=0.5)
    assert drawn.shape[0] == 480
    assert (np.abs(drawn.astype(int) - 100).max() > 5) == seen


def test_another_output_is_refused():
    with pytest.raises(UserError, match="returns scores; instances and sem_seg"):
        draw_output(IMAGE, {"scores": torch.zeros(3)}, Metadata(), min_score=0.5)
