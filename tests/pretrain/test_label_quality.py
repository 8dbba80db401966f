"""Pseudo-label precision against loops, and the rows beside the dictionary."""

import numpy as np
import pytest
import torch

from mls_d2.config.defaults import get_cfg
from pretrain.annotations import Annotations
from pretrain.data import ViewBatch
from pretrain.label_quality import LabelQuality, build_label_quality, precision_at_k
from tests.pretrain.methods.tiny import make_method

CPU = torch.device("cpu")


def objects(boxes: list[list[float]], classes: list[int]) -> Annotations:
    """One image with objects of four categories."""
    return Annotations(
        ("a.jpg",), (np.array(boxes, float).reshape(-1, 4),), (np.array(classes),), tuple("abcd")
    )


def test_precision_and_chance_equal_loops_over_all_pairs():
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(6, 9, dtype=torch.bool)
    for row in labels:
        row[torch.randperm(9, generator=generator)[:3]] = True
    query = torch.rand(6, 4, generator=generator) < 0.3
    query[2] = False
    rows = torch.rand(9, 4, generator=generator) < 0.3
    right = picked = alike = pairs = 0
    for i in range(6):
        if not any(query[i]):
            continue
        for j in range(9):
            same = any(bool(query[i, c] and rows[j, c]) for c in range(4))
            alike, pairs = alike + same, pairs + 1
            right, picked = right + (same and bool(labels[i, j])), picked + bool(labels[i, j])
    precision, chance = precision_at_k(labels, query, rows)
    assert precision.item() == pytest.approx(right / picked)
    assert chance.item() == pytest.approx(alike / pairs)


def test_queries_that_show_nothing_tell_nothing():
    labels, nothing = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)
    assert all(value.isnan() for value in precision_at_k(labels, nothing, torch.ones(3, 4).bool()))


@pytest.mark.parametrize(
    ("crop", "expected"),
    [
        ([0, 0, 100, 100], [True, True, False, False]),
        ([0, 0, 15, 100], [True, False, False, False]),  # half of a's box
        ([0, 0, 14, 100], [False, False, False, False]),
        ([50, 50, 10, 10], [False, True, False, False]),  # filled by b, of which it holds little
        ([45, 45, 10, 10], [False, False, False, False]),  # a quarter of it
        ([45, 47, 10, 10], [False, True, False, False]),  # a third or so of it
        ([300, 300, 10, 10], [False, False, False, False]),
    ],
)
def test_objects_are_seen_where_the_crop_holds_them_or_is_filled_by_them(crop, expected):
    data = objects([[10, 10, 10, 10], [50, 50, 50, 50], [200, 200, 5, 5]], [0, 1, 3])
    assert data.seen(0, np.array([*crop, 1.0])).tolist() == expected


def batch(categories: list[int]) -> ViewBatch:
    """Crops that show one category each, in both views; category c lies at x = 100 c."""
    crops = [[100 * c, 0, 10, 10, 0] for c in categories]
    geometry = torch.tensor([crops, crops], dtype=torch.float32)
    index = torch.zeros(len(crops), dtype=torch.long)
    return ViewBatch([], geometry, torch.zeros(len(crops), 2), index, {}, [], [])


def test_rows_are_kept_where_the_dictionary_puts_their_keys():
    data = objects([[100 * c, 0, 10, 10] for c in range(4)], [0, 1, 2, 3])
    quality = LabelQuality(data, dictionary_size=6)
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[0, 0] = first[1, 4] = True
    # As after a resume: iteration 4 of batches of 2 goes to rows 2 and 3.
    for iteration, categories in ((4, [1, 1]), (5, [2, 3])):
        assert quality.measure(batch([0, 2]), first) == {}
        quality.enqueue(batch(categories), iteration, CPU)
    assert quality.measure(batch([0, 2]), first) == {}
    quality.enqueue(batch([0, 1]), 6, CPU)  # rows are now 0 1 | 1 1 | 2 3
    found = quality.measure(batch([0, 2]), first)
    assert found["label_precision"].item() == 1.0
    assert found["label_chance"].item() == pytest.approx(1 / 6)
    found = quality.measure(batch([3, 2]), first)
    assert found["label_precision"].item() == 0.5


def test_methods_without_labels_and_data_without_annotations_are_refused(refuses):
    cfg = get_cfg()
    method = make_method("mocov2")
    assert build_label_quality(cfg, method) is None
    cfg.PRETRAIN.LABEL_QUALITY, cfg.PRETRAIN.METHOD = True, "mocov2"
    with refuses("bad-value", "'mls', 'revisiting'"):
        build_label_quality(cfg, method)
    cfg.DATASETS.TRAIN = ("some/folder",)
    with refuses("unknown-name", "some/folder"):
        build_label_quality(cfg, make_method("mls"))
