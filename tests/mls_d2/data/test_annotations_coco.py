"""Every odd COCO file ends in the right records and numbers, or in one line before training."""

import copy
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mls_d2.core.errors import UserError
from mls_d2.data.annotations_coco import (
    check_evaluation,
    coco_records,
    ground_truth,
    image_names,
    read_coco,
)
from mls_d2.data.datasets import check_dataset, register_coco
from mls_d2.data.run_length import Rle, rle_problem
from mls_d2.run.registration import register_all
from tests.mls_d2.data.mutations import FIRST_SEED, mutated, some_coco

BIG = 2**53 + 1


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A function that registers content as ``own``, with pictures, and returns the file."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / name)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def write(content):
        path = tmp_path / "own.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        if "own" not in DatasetCatalog.list():
            register_coco("own", path, tmp_path)
        return str(path)

    yield write
    DatasetCatalog.pop("own", None)
    if "own" in MetadataCatalog.list():
        MetadataCatalog.remove("own")


def put(*steps):
    """Return a mutation that sets, or with ``...`` removes, the field at a path."""
    *path, key, value = steps

    def apply(content):
        for step in path:
            content = content[step]
        if value is ...:
            del content[key]
        else:
            content[key] = value

    return apply


OBJECT, IMAGE, CATEGORY = ("annotations", 1), ("images", 0), ("categories", 0)
REFUSED = {
    "list": lambda c: [c],
    **{f"no {key}": put(key, ...) for key in ("images", "annotations", "categories")},
    **{f"null {key}": put(key, None) for key in ("images", "annotations", "categories")},
    **{f"empty {key}": put(key, []) for key in ("images", "categories")},
    **{
        f"object {key} {value!r}": put(*OBJECT, key, value)
        for key in ("id", "image_id", "category_id")
        for value in (..., None, "1", 1.5, BIG, [1], True)
    },
    **{f"image id {value!r}": put(*IMAGE, "id", value) for value in (..., None, "x", BIG, -1)},
    **{f"name {value!r}": put(*IMAGE, "file_name", value) for value in (..., None, 3, "")},
    **{
        f"{side} {value!r}": put(*IMAGE, side, value)
        for side in ("width", "height")
        for value in (..., None, 0, -3, "30", 1e9, 30.5)
    },
    **{f"category id {value!r}": put(*CATEGORY, "id", value) for value in (..., None, "x", BIG)},
    **{f"category {v!r}": put(*CATEGORY, "name", v) for v in (..., None, 1, "", "\ud800")},
    **{
        f"bbox {value!r}": put(*OBJECT, "bbox", value)
        for value in (..., None, [], "1 2 3 4", [1, 2, 3], [1, 2, 3, "4"], [1, 2, -3, 4],
                      [1, 2, 3, float("nan")], [1, 2, 3, 1e400], [1, 2, 3, 1e9], [[1, 2, 3, 4]])
    },
    "double object": put(*OBJECT, "id", 0),
    "double image": put(*IMAGE, "id", 4),
    "double category": put(*CATEGORY, "id", 2),
    "double category name": put(*CATEGORY, "name", "dog"),
    "unknown category": put(*OBJECT, "category_id", 5),
    "ignore": put(*OBJECT, "ignore", 1),
    "crowd 2": put(*OBJECT, "iscrowd", 2),
    "crowd text": put(*OBJECT, "iscrowd", "0"),
    **{f"area {v!r}": put(*OBJECT, "area", v) for v in (-1, "9", 1e11, float("nan"))},
    "flat polygon": put(*OBJECT, "segmentation", [1, 2, 3, 4, 5, 6]),
    "text polygon": put(*OBJECT, "segmentation", [["1", 2, 3, 4, 5, 6]]),
    "far polygon": put(*OBJECT, "segmentation", [[1, 2, 1e8, 4, 5, 6]]),
    "text mask": put(*OBJECT, "segmentation", "mask.png"),
    "RLE without size": put(*OBJECT, "segmentation", {"counts": [600]}),
    "RLE of another size": put(*OBJECT, "segmentation", {"counts": [600], "size": [30, 20]}),
    "RLE too short": put(*OBJECT, "segmentation", {"counts": [5, 5], "size": [20, 30]}),
    "RLE too long": put(*OBJECT, "segmentation", {"counts": [600, 1], "size": [20, 30]}),
    "RLE negative": put(*OBJECT, "segmentation", {"counts": [601, -1], "size": [20, 30]}),
    "RLE text": put(*OBJECT, "segmentation", {"counts": "_", "size": [20, 30]}),
    "RLE endless": put(*OBJECT, "segmentation", {"counts": "\x7f\u20ac", "size": [20, 30]}),
    # Read as "?", the last letter would make it fit.
    "RLE no ASCII": put(*OBJECT, "segmentation", {"counts": "T3<X\u00e9", "size": [20, 30]}),
    "sizes exchanged": put(*IMAGE, "height", 30),
}  # fmt: skip


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_what_contradicts_the_format_is_refused_before_training(dataset, refuses, change):
    content = some_coco()
    replaced = change(content)
    path = dataset(replaced or content)
    with pytest.raises(UserError) as caught:
        check_dataset("own")
    assert caught.value.code in ("damaged-annotation", "damaged-file")
    assert path in str(caught.value) or "a.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_message_names_field_and_id_and_counts_the_others(dataset, refuses):
    content = some_coco()
    for item in content["annotations"][1:]:
        item["bbox"] = [1, 2, "x", 4]
    content["annotations"][1]["iscrowd"] = 7
    dataset(content)
    with refuses("damaged-annotation") as caught:
        read_coco(dataset(content))
    message = str(caught.value)
    assert "annotations[1].bbox[2] (id 7)" in message
    assert f"{len(content['annotations']) - 2} more like it" in message
    content["images"][1]["width"] = -7
    with refuses("damaged-annotation") as caught:
        read_coco(dataset(content))
    assert "images[1].width (id 4): Expected `int` >= 1, got -7" in str(caught.value)


ACCEPTED = {
    "ids as 1.0": put(*OBJECT, "image_id", 9.0),
    "NaN elsewhere": put(*OBJECT, "score", float("nan")),
    "no iscrowd": put(*OBJECT, "iscrowd", ...),
    "null iscrowd": put(*OBJECT, "iscrowd", None),
    "iscrowd false": put(*OBJECT, "iscrowd", False),
    "ignore 0": put(*OBJECT, "ignore", 0),
    "ignore of a crowd": put("annotations", 3, "ignore", 1),
    "no area": put(*OBJECT, "area", ...),
    "null area": put(*OBJECT, "area", None),
    "short polygon beside": lambda c: c["annotations"][1]["segmentation"].append([1, 2, 3, 4]),
}


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
def test_what_pycocotools_understands_gives_the_same_records_and_truth(dataset, change):
    content = some_coco()
    dataset(content)
    records, truth = coco_records("own"), ground_truth(dataset(content))
    change(content)
    path = dataset(content)
    check_dataset("own")
    assert coco_records("own") == records
    found = ground_truth(path)
    for ours, theirs in zip(found["annotations"], truth["annotations"], strict=True):
        assert ours == theirs


def test_a_byte_order_mark_is_skipped_and_a_cut_file_named(dataset, refuses):
    data = json.dumps(some_coco()).encode()
    dataset(b"\xef\xbb\xbf" + data)
    check_dataset("own")
    for broken in (data[:300], b"", b"null", b"\xff\xfe", b"[" * 100000):
        with refuses("damaged-file"):
            read_coco(dataset(broken))


def test_objects_of_unlisted_images_and_unusable_masks_are_counted(dataset, caplog):
    content = some_coco()
    content["annotations"][0]["image_id"] = 1234
    content["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]
    content["annotations"][2]["segmentation"] = []
    dataset(content)
    objects = [item for record in coco_records("own") for item in record["annotations"]]
    # As Detectron2 does: objects with too short polygons go, those without any stay.
    assert len(objects) == len(content["annotations"]) - 2
    assert sum("segmentation" not in item for item in objects) == 1
    assert "1 objects of images that are not listed" in caplog.text
    assert "1 polygons without three points" in caplog.text


def test_an_image_that_is_listed_twice_is_counted(dataset, caplog):
    content = some_coco()
    put(*IMAGE, "file_name", "b.png")(content)
    dataset(content)
    check_dataset("own", test=True)
    assert "1 of 2 images are listed more than once" in caplog.text


def test_areas_are_those_of_the_masks_and_ids_count_from_one(dataset):
    content = some_coco()
    for item in content["annotations"]:
        item.pop("area")
    content["annotations"][2].pop("segmentation")
    truth = ground_truth(dataset(content))["annotations"]
    assert [item["id"] for item in truth] == list(range(1, len(truth) + 1))
    for item, source in zip(truth, content["annotations"], strict=True):
        if "segmentation" not in source:
            assert item["area"] == source["bbox"][2] * source["bbox"][3]
            continue
        merged = source["segmentation"]
        if not isinstance(merged, dict) or isinstance(merged["counts"], list):
            merged = mask_util.frPyObjects(copy.deepcopy(merged), 20, 30)
        merged = mask_util.merge(merged) if isinstance(merged, list) else merged
        assert item["area"] == mask_util.decode(merged).sum()


EVEN, ODD = [4, 4, 14, 4, 14, 12], [4, 4, 14, 4, 14, 12, 4]


@pytest.mark.parametrize("mask", [..., None, [], [[]], [[1, 2, 3, 4]], [EVEN, ODD]], ids=str)
def test_masks_that_are_missing_or_ambiguous_stop_their_evaluation(dataset, refuses, mask):
    content = some_coco()
    check_evaluation(dataset(content), masks=True)
    put("annotations", 2, "segmentation", mask)(content)
    check_evaluation(dataset(content), masks=False)
    with refuses("damaged-annotation") as caught:
        check_evaluation(dataset(content), masks=True)
    assert "annotations[2].segmentation (id 8)" in str(caught.value)
    put("annotations", 2, "image_id", 1234)(content)
    check_evaluation(dataset(content), masks=True)


@pytest.mark.parametrize("change", [{"iscrowd": True}, {"image_id": 1234}], ids=str)
def test_an_evaluation_needs_an_object_that_is_no_crowd(dataset, refuses, change):
    content = some_coco()
    for item in content["annotations"]:
        item.update(change)
    with refuses("damaged-annotation") as caught:
        check_evaluation(dataset(content), masks=True)
    assert "AP is undefined" in str(caught.value)


@pytest.mark.parametrize("seed", range(5))
def test_compressed_counts_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    mask = np.asfortranarray((rng.random((40, 70)) < rng.random()).astype(np.uint8))
    mask[:, : int(rng.integers(0, 60))] = 0
    counts = mask_util.encode(mask)["counts"].decode()
    assert not rle_problem(Rle(counts, (40, 70)), (40, 70))
    assert rle_problem(Rle(counts[:-1], (40, 70)), (40, 70))


def test_own_categories_belong_under_a_name_of_their_own(dataset, refuses, tmp_path):
    register_all()
    path = dataset(some_coco())
    check_dataset("own")
    metadata = MetadataCatalog.get("own")
    assert metadata.thing_classes == ["cat", "dog", "cow"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 8: 2}
    for folder in ("annotations", "val2017"):
        (tmp_path / "coco" / folder).mkdir(parents=True)
    builtin = MetadataCatalog.get("coco_2017_val")
    before = builtin.json_file
    try:
        builtin.__dict__["json_file"] = path
        with refuses("own-categories") as caught:
            coco_records("coco_2017_val")
    finally:
        builtin.__dict__["json_file"] = before
    assert "register_coco" in str(caught.value)


def test_pretraining_reads_the_list_of_images_alone(dataset, refuses):
    content = some_coco()
    content["annotations"] = content["categories"] = "broken"
    for number in (9, 9.0):  # and 4: in the order of their ids
        put(*IMAGE, "id", number)(content)
        assert image_names(dataset(content)) == ("b.png", "a.png")
    with refuses("damaged-annotation"):
        image_names(dataset({"images": []}))


def check_mutations(dataset, seeds):
    """Count the files that are refused; anything but success or a UserError fails."""
    refused = 0
    for seed in seeds:
        path = dataset(mutated(some_coco(), seed))
        try:
            check_dataset("own")
            ground_truth(path)
        except UserError as error:
            refused += bool(error.code)
        MetadataCatalog.get("own").__dict__.pop("thing_classes", None)
        MetadataCatalog.get("own").__dict__.pop("thing_dataset_id_to_contiguous_id", None)
    return refused


@pytest.mark.timeout(60)
def test_mutated_files_are_read_or_refused(dataset):
    assert 50 < check_mutations(dataset, range(150)) < 150


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_thousands_of_mutated_files_are_read_or_refused(dataset):
    assert check_mutations(dataset, range(FIRST_SEED, FIRST_SEED + 10_000)) > 3000
