"""Our label tables against Detectron2's and cityscapesscripts' own."""

from __future__ import annotations

from cityscapesscripts.helpers.labels import name2label
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES as D2_CATEGORIES
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from mls_d2.scenes.labels import CITYSCAPES_IDS, COCO_CATEGORIES, COCO_IDS, KINDS, VOC_CLASSES


def test_coco_categories_are_detectron2s_80_things():
    expected = [(c["id"], c["name"]) for c in D2_CATEGORIES if c["isthing"]]
    assert [(c["id"], c["name"]) for c in COCO_CATEGORIES] == expected
    assert len(expected) == 80


def test_coco_supercategories():
    groups: dict[str, list[int]] = {}
    for category in COCO_CATEGORIES:
        groups.setdefault(category["supercategory"], []).append(category["id"])
    # Their ids in instances_val2017.json: each group is one range.
    assert {name: (min(ids), max(ids)) for name, ids in groups.items()} == {
        "person": (1, 1), "vehicle": (2, 9), "outdoor": (10, 15), "animal": (16, 25),
        "accessory": (27, 33), "sports": (34, 43), "kitchen": (44, 51), "food": (52, 61),
        "furniture": (62, 70), "electronic": (72, 77), "appliance": (78, 82), "indoor": (84, 90),
    }  # fmt: skip


def test_voc_classes_are_detectron2s():
    assert VOC_CLASSES == CLASS_NAMES


def test_cityscapes_ids_are_cityscapesscripts():
    for name, (label_id, train_id, has_instances) in CITYSCAPES_IDS.items():
        label = name2label[name]
        assert (label.id, label.trainId, label.hasInstances) == (label_id, train_id, has_instances)


def test_every_kind_has_labels_that_exist():
    for labels in KINDS.values():
        assert labels.coco is None or labels.coco in COCO_IDS
        assert labels.voc is None or labels.voc in VOC_CLASSES
        assert labels.cityscapes in CITYSCAPES_IDS
