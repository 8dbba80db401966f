"""Correspondences: who is near whom, which boxes are pairs, one file however often interrupted."""

import dataclasses
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import pretrain.discovery as discovery
from mls_d2.data.proposals import Proposals
from pretrain.correspondences import Correspondences, pair_counts
from pretrain.discovery import (
    Discovery,
    best_pairs,
    make_correspondences,
    nearest_rows,
    provide_correspondences,
)
from pretrain.encoder import Encoder
from pretrain.sources import FileSource
from pretrain.views.boxes import overlaps, separate_boxes
from tests.pretrain.methods.tiny import FlatBackbone


@pytest.mark.parametrize("blocks", [(1024, 65536), (2, 3)])
def test_nearest_rows_are_those_of_a_loop(monkeypatch, blocks):
    monkeypatch.setattr(discovery, "_QUERIES", blocks[0])
    monkeypatch.setattr(discovery, "_ROWS", blocks[1])
    bank = torch.randn(11, 4, dtype=torch.float64).float()
    bank[5] = bank[2]  # a photo that is there twice is a neighbour, not the image itself
    eligible = torch.ones(11, dtype=torch.bool)
    eligible[3] = False
    found = nearest_rows(bank, eligible, 4)
    for row in range(11):
        others = [i for i in range(11) if i not in (row, 3)]
        others.sort(key=lambda i: -float(bank[row] @ bank[i]))
        assert set(found[row].tolist()) == set(others[:4])
    assert found[2, 0] in (5, max(range(11), key=lambda i: float(bank[2] @ bank[i])))


def test_best_pairs_are_those_of_a_loop_and_need_not_be_mutual():
    queries, keys = torch.randn(6, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    every = [(float(queries[i] @ keys[j]), i, j) for i in range(6) for j in range(4)]
    expected = [[i, j] for _, i, j in sorted(every, reverse=True)]
    assert best_pairs(queries, keys, 9).tolist() == expected[:9]
    assert best_pairs(queries[:1], keys[:1], 3).tolist() == [[0, 0]] * 3


def test_a_tenth_of_the_boxes_are_pairs_but_one_at_least():
    counts = np.array([0, 1, 9, 10, 19, 20, 30, 70, 100])
    assert pair_counts(counts, 0.1).tolist() == [0, 1, 1, 1, 1, 2, 3, 7, 10]


def test_boxes_are_kept_in_their_order_if_they_are_large_compact_and_apart():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 80, (60, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (60, 2))], axis=1)
    expected: list[np.ndarray] = []
    for box in np.clip(boxes, 0, [110, 100, 110, 100]):
        w, h = box[2:] - box[:2]
        if min(w, h) < 12 or max(w, h) > 3 * min(w, h):
            continue
        if all(iou(box, other) <= 0.5 for other in expected):
            expected.append(box)
    got = separate_boxes(boxes, 100, 110, min_side=12, most=100)
    assert 5 < len(expected) < 40
    np.testing.assert_allclose(got, expected)
    few = separate_boxes(boxes, 100, 110, min_side=12, most=3)
    np.testing.assert_allclose(few, expected[:3])
    np.testing.assert_allclose(separate_boxes(boxes, 100, 110, min_side=90, most=9), boxes[:1])
    assert separate_boxes(boxes[:0], 100, 110, min_side=9, most=9).tolist() == [[0, 0, 110, 100]]


def iou(one, other) -> float:
    w = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    h = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    found = w * h / (sum(areas) - w * h)
    assert overlaps(np.array(one), np.array([other]))[0] == pytest.approx(found)
    return found


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(FlatBackbone(), torch.nn.Linear(6, 4)).eval()


@pytest.fixture
def found(images, proposals, monkeypatch) -> Discovery:
    monkeypatch.setattr(discovery, "_IMAGES", 4)  # three files of nine images
    return Discovery(
        source=FileSource(sorted(map(str, images.iterdir()))),
        proposals=Proposals(proposals),
        size=32,
        mean=(120.0, 115.0, 100.0),
        std=(58.0, 57.0, 57.0),
        neighbours=2,
        min_side=32,
        max_boxes=9,
        pair_share=0.1,
    )


def test_images_without_proposals_are_whole_objects_and_broken_ones_are_nobodys(
    found, encoder, tmp_path, caplog
):
    Path(found.source.name(4)).write_bytes(b"no image")
    made = provide_correspondences(str(tmp_path / "a"), found, encoder)
    assert len(made) == 9
    # The two boxes of the fixture overlap by more than half; every third image has none.
    for place in range(9):
        expected = [[0, 0, 50, 40]] if place % 3 == 0 else [[0, 0, 33, 32]]
        assert made.boxes(place).tolist() == ([] if place == 4 else expected)
        assert 4 not in made.neighbours(place)
        assert place not in made.neighbours(place)
        pairs = made.pairs(place).tolist()
        assert pairs == ([[], []] if place == 4 else [[[0, 0]], [[0, 0]]])
    assert found.source.name(4) in caplog.text
    again = pickle.loads(pickle.dumps(made))
    assert (again.digest, again.recipe) == (made.digest, made.recipe)


@pytest.mark.parametrize(
    "stop", [("boxes", 4), ("features", 4), ("neighbours", 0), ("pairs", 8), ("write", 0)]
)
def test_an_interrupted_call_goes_on_and_gives_the_same_file(
    found, encoder, tmp_path, monkeypatch, stop
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    make_correspondences(str(whole), found, encoder)
    save, saved = discovery._save, []

    def failing(partial, name, first, array) -> None:
        if (name, first) == stop:
            raise KeyboardInterrupt
        save(partial, name, first, array)

    monkeypatch.setattr(discovery, "_save", failing)
    if stop[0] == "write":
        monkeypatch.setattr(discovery, "write_correspondences", None)
    with pytest.raises(TypeError if stop[0] == "write" else KeyboardInterrupt):
        make_correspondences(str(cut), found, encoder)
    monkeypatch.undo()
    monkeypatch.setattr(discovery, "_IMAGES", 4)
    assert not cut.exists()
    monkeypatch.setattr(
        discovery, "_save", lambda p, name, first, a: saved.append(first) or save(p, name, first, a)
    )
    make_correspondences(str(cut), found, encoder)
    assert (stop[0] == "write") == (saved == [])
    assert cut.read_bytes() == whole.read_bytes()
    assert not os.path.exists(f"{cut}.partial")


def test_files_are_found_again_and_others_are_named(found, encoder, tmp_path, monkeypatch, refuses):
    path = str(tmp_path / "a")
    provide_correspondences(path, found, encoder)
    monkeypatch.setattr(discovery, "make_correspondences", lambda *_, **__: pytest.fail("again"))
    provide_correspondences(path, found, encoder)
    other = Encoder(FlatBackbone(), torch.nn.Linear(6, 4)).eval()
    with refuses("changed-data", "encoder: ", " there, ", " now"):
        provide_correspondences(path, found, other)
    content = Path(path).read_bytes()
    for broken in (content[:-1], content + b"0", content[:-1] + bytes([content[-1] ^ 1])):
        Path(path).write_bytes(broken)
        with refuses("damaged-file"):
            Correspondences(path)
    Path(path).write_bytes(b"mls_d2 proposals 1\n")
    with refuses("foreign-file"):
        Correspondences(path)
    with refuses("missing-file"):
        Correspondences(str(tmp_path / "none"))


def test_a_partial_folder_of_other_weights_or_damaged_is_refused(
    found, encoder, tmp_path, monkeypatch, refuses
):
    path, partial = str(tmp_path / "a"), tmp_path / "a.partial"
    monkeypatch.setattr(discovery, "write_correspondences", None)
    with pytest.raises(TypeError):
        make_correspondences(path, found, encoder)
    with refuses("changed-run"):
        make_correspondences(path, found, Encoder(FlatBackbone(), torch.nn.Linear(6, 4)).eval())
    shutil.copy(partial / "recipe.json", partial / "images-000000004.npy")
    (partial / "neighbours-000000000.npy").unlink()
    with refuses("damaged-file", "images-000000004.npy"):
        make_correspondences(path, found, encoder)


def test_fewer_images_than_neighbours_are_refused(found, encoder, tmp_path, refuses):
    found = dataclasses.replace(found, neighbours=9)
    with refuses("bad-value", "ORL.NEIGHBOURS 9"):
        make_correspondences(str(tmp_path / "a"), found, encoder)
