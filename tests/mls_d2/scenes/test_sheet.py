"""Contact sheets: what is drawn where."""

from __future__ import annotations

import cv2
import numpy as np

from mls_d2.scenes import SceneParams, coco
from mls_d2.scenes.generate import picture_of
from mls_d2.scenes.sheet import contact_sheet, draw_annotations

PARAMS = SceneParams(seed=3, size=(64, 48))


def test_tiles_are_the_first_scenes_of_train():
    sheet = contact_sheet(PARAMS, count=3, columns=2, scale=1)
    # Two pairs a row, three pairs, the last place blank.
    assert sheet.shape == (2 * 48, 4 * 64, 3)
    split = coco.splits(PARAMS)[0]
    np.testing.assert_array_equal(sheet[48:, :64], picture_of(3, split, 2).image)
    assert not sheet[48:, 128:].any()


def test_annotations_colour_their_masks_and_nothing_outside_boxes_and_names():
    picture = picture_of(3, coco.splits(PARAMS)[0], 0)
    large = cv2.resize(picture.image, None, fx=4, fy=4)
    before = large.copy()
    drawn = draw_annotations(picture, large, 4)
    np.testing.assert_array_equal(large, before)
    changed = (drawn != large).any(axis=2)
    masks = np.zeros_like(changed)
    for _, mask, _ in coco.visible_things(picture):
        masks |= np.kron(mask, np.ones((4, 4))) > 0
    assert changed[masks].mean() > 0.95
    assert changed[~masks].mean() < 0.2
