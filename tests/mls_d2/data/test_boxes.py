"""Images without a usable box are told apart from those with one."""

import pytest
from detectron2.structures import BoxMode

from mls_d2.core.errors import UserError
from mls_d2.data.boxes import with_usable_boxes


def record(*boxes, mode=BoxMode.XYWH_ABS, crowd=0):
    annotations = [{"bbox": list(box), "bbox_mode": mode, "iscrowd": crowd} for box in boxes]
    return {"width": 60, "height": 40, "annotations": annotations}


GOOD = (10, 10, 5, 5)
BAD = [
    (10, 10, 0, 5),
    (10, 10, 5, 0),
    (10, 10, -5, 5),
    (60, 10, 5, 5),  # begins where the image ends
    (10, 40, 5, 5),
    (-5, 10, 5, 5),  # ends where the image begins
    (10, -99, 5, 5),
]


@pytest.mark.parametrize("box", BAD)
def test_an_image_with_bad_boxes_alone_is_left_out(box, caplog):
    mixed, whole = record(box, GOOD), record(GOOD)
    assert with_usable_boxes([record(box), mixed, record(box, box), whole]) == [mixed, whole]
    assert "4 boxes without area" in caplog.text
    assert "and 2 images without others" in caplog.text


@pytest.mark.parametrize(
    "box", [(-5, -5, 6, 6), (59, 39, 50, 50), (0, 0, 60, 40), (1, 1, 0.1, 0.1)]
)
def test_boxes_over_the_edge_and_small_ones_are_good(box, caplog):
    assert len(with_usable_boxes([record(box)])) == 1
    assert not caplog.text


def test_corners_are_read_as_corners():
    corners = record((10, 10, 12, 12), mode=BoxMode.XYXY_ABS)
    empty = record((10, 10, 10, 12), mode=BoxMode.XYXY_ABS)
    assert with_usable_boxes([corners, empty]) == [corners]


def test_crowds_are_no_objects_to_learn_from():
    with pytest.raises(UserError, match="none of the 1 training images"):
        with_usable_boxes([record(GOOD, crowd=1)])
