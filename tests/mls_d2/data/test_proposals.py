"""The file of proposals: what goes in comes out, and what is damaged is named."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from mls_d2.core.errors import UserError
from mls_d2.data.images import BrokenImageError
from mls_d2.data.proposals import NO_KEY, Proposals, ProposalsWriter, Recipe, image_key

RECIPE = Recipe(source="abc", search="none", short_side=0, min_side=32, seed=0)
BOXES = [[[0, 1, 65535, 65534], [3, 4, 5, 6]], [], [[7, 8, 90, 100]], [[1, 1, 2, 2]] * 3]


class Pictures:
    """Four images whose bytes are their numbers; the second one cannot be read."""

    counts = np.array([4])

    def __init__(self) -> None:
        self.files: list[bytes | None] = [b"0", None, b"2", b"3"]

    def digest(self) -> str:
        return RECIPE.source

    def name(self, position: int) -> str:
        return f"{position}.png"

    def read(self, position: int) -> bytes:
        data = self.files[position]
        if data is None:
            raise BrokenImageError("damaged")
        return data


def fill(writer: ProposalsWriter, stop: int = len(BOXES)) -> ProposalsWriter:
    for place in range(writer.done, stop):
        data = Pictures().files[place]
        boxes = np.array(BOXES[place], np.int64).reshape(-1, 4)
        writer.append(image_key(data) if data else NO_KEY, (50, 60 + place), boxes)
    return writer


def read_all(path: str) -> None:
    proposals = Proposals(path)
    assert [proposals.boxes(place).tolist() for place in range(4)] == BOXES
    proposals.check(Pictures(), RECIPE)


@pytest.fixture
def path(tmp_path) -> str:
    target = str(tmp_path / "a.boxes")
    fill(ProposalsWriter(target, RECIPE)).finish()
    return target


def test_every_image_has_its_boxes(path):
    for proposals in (Proposals(path), pickle.loads(pickle.dumps(Proposals(path)))):
        assert (len(proposals), proposals.total, proposals.recipe) == (4, 6, RECIPE)
        for place, boxes in enumerate(BOXES):
            found = proposals.boxes(place)
            assert (found.dtype, found.shape) == (np.float32, (len(boxes), 4))
            assert found.tolist() == boxes
    with pytest.raises(IndexError):
        proposals.boxes(4)


def test_a_pickle_holds_the_path_and_not_the_boxes(path):
    assert len(pickle.dumps(Proposals(path))) < 300


def test_a_dataset_without_any_box_is_fine(tmp_path):
    writer = ProposalsWriter(str(tmp_path / "b"), RECIPE)
    writer.append(NO_KEY, (0, 0), np.zeros((0, 4)))
    writer.finish()
    assert Proposals(str(tmp_path / "b")).boxes(0).shape == (0, 4)


@pytest.mark.parametrize("cut", [0, 1, 30, 50, 70, 200])
def test_an_interrupted_file_goes_on_wherever_it_was_cut(path, tmp_path, cut):
    whole, target = Path(path).read_bytes(), str(tmp_path / "b.boxes")
    fill(ProposalsWriter(target, RECIPE), stop=3).close()
    partial = f"{target}.partial"
    os.truncate(partial, max(0, os.path.getsize(partial) - cut))
    writer = ProposalsWriter(target, RECIPE)
    assert writer.done == {0: 3, 1: 2, 30: 2, 50: 1, 70: 0, 200: 0}[cut]
    fill(writer).finish()
    assert Path(target).read_bytes() == whole
    assert not os.path.exists(partial)


def test_a_damaged_record_and_what_follows_are_made_again(path, tmp_path):
    whole, target = Path(path).read_bytes(), str(tmp_path / "b.boxes")
    fill(ProposalsWriter(target, RECIPE), stop=3).close()
    data = bytearray(Path(f"{target}.partial").read_bytes())
    data[-3] ^= 1
    Path(f"{target}.partial").write_bytes(data)
    writer = ProposalsWriter(target, RECIPE)
    assert writer.done == 2
    fill(writer).finish()
    assert Path(target).read_bytes() == whole


def test_a_partial_file_of_other_images_or_of_nothing_is_refused(tmp_path, refuses):
    target = str(tmp_path / "b.boxes")
    fill(ProposalsWriter(target, RECIPE), stop=1).close()
    other = Recipe(source="abc", search="none", short_side=256, min_side=32, seed=0)
    with refuses("changed-run") as caught:
        ProposalsWriter(target, other)
    assert caught.match(r"b.boxes.partial.*\(short_side: 0 there, 256 now\)")
    (tmp_path / "b.boxes.partial").write_text("notes\n")
    with refuses("damaged-file", "b.boxes.partial"):
        ProposalsWriter(target, RECIPE)
    with refuses("unwritable"):
        ProposalsWriter(str(tmp_path / "nowhere" / "b"), RECIPE)


def test_missing_and_foreign_files_are_named(tmp_path, refuses):
    with refuses("missing-file", "none.boxes"):
        Proposals(str(tmp_path / "none.boxes"))
    for content in (b"", b"PK\x03\x04" + bytes(100)):
        (tmp_path / "x.npz").write_bytes(content)
        with refuses("foreign-file", "x.npz"):
            Proposals(str(tmp_path / "x.npz"))


def test_a_file_that_is_cut_or_has_a_wrong_byte_anywhere_is_refused(path, refuses):
    whole = Path(path).read_bytes()
    for end in (*range(20, len(whole), 7), len(whole) - 1):
        Path(path).write_bytes(whole[:end])
        with refuses("damaged-file", "a.boxes"):
            Proposals(path)
    codes = ("damaged-file", "foreign-file", "changed-data")
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 4
        Path(path).write_bytes(data)
        # A wrong recipe is no wrong box; the check refuses it.
        with pytest.raises(UserError, check=lambda error: error.code in codes):
            read_all(path)


def test_proposals_of_other_images_are_refused_in_one_line(path, refuses):
    pictures, proposals = Pictures(), Proposals(path)
    proposals.check(pictures, RECIPE)
    for change in ({"source": "abd"}, {"short_side": 7}, {"min_side": 8}, {"seed": 1}):
        values = {name: getattr(RECIPE, name) for name in Recipe.__struct_fields__} | change
        with refuses("changed-data") as caught:
            proposals.check(pictures, Recipe(**values))
        assert caught.match(next(iter(change)))
        assert "\n" not in str(caught.value)
    for place, data in ((3, b"x"), (1, b"1"), (0, None)):
        pictures = Pictures()
        pictures.files[place] = data
        with refuses("changed-data") as caught:
            proposals.check(pictures, RECIPE)
        assert caught.match(rf"{place}.png.*a.boxes")
