"""What scenes are made of, in the label spaces of COCO, PASCAL VOC and Cityscapes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Labels:
    """One kind's labels; None where a label space has no class for it.

    Args:
        coco: name of the COCO category.
        voc: name of the VOC class.
        cityscapes: name of the Cityscapes label.
    """

    coco: str | None
    voc: str | None
    cityscapes: str


def _thing(coco: str, voc: str | None = None, cityscapes: str = "dynamic") -> Labels:
    return Labels(coco, voc, cityscapes)


def _stuff(cityscapes: str) -> Labels:
    return Labels(None, None, cityscapes)


KINDS: dict[str, Labels] = {
    "person": _thing("person", "person", "person"),
    "rider": _thing("person", "person", "rider"),
    "bicycle": _thing("bicycle", "bicycle", "bicycle"),
    "car": _thing("car", "car", "car"),
    "motorcycle": _thing("motorcycle", "motorbike", "motorcycle"),
    "bus": _thing("bus", "bus", "bus"),
    "truck": _thing("truck", None, "truck"),
    "boat": _thing("boat", "boat"),
    "traffic light": _thing("traffic light", None, "traffic light"),
    "bench": _thing("bench", None, "static"),
    "bird": _thing("bird", "bird"),
    "dog": _thing("dog", "dog"),
    "umbrella": _thing("umbrella"),
    "kite": _thing("kite"),
    "surfboard": _thing("surfboard"),
    "sky": _stuff("sky"),
    "hills": _stuff("terrain"),
    "skyline": _stuff("building"),
    "road": _stuff("road"),
    "sidewalk": _stuff("sidewalk"),
    "grass": _stuff("terrain"),
    "yard": _stuff("terrain"),
    "path": _stuff("sidewalk"),
    "sand": _stuff("ground"),
    "wet sand": _stuff("ground"),
    "foam": _stuff("ground"),
    "water": _stuff("ground"),
    "pond": _stuff("ground"),
    # COCO has stop signs alone, and one red thing of one shape is found by any detector at once.
    "traffic sign": _stuff("traffic sign"),
    "tree": _stuff("vegetation"),
    "pole": _stuff("pole"),
    "building": _stuff("building"),
    "wall": _stuff("wall"),
    "fence": _stuff("fence"),
}

# For each supercategory the id of its first category, and the names in order of their ids.
_COCO_NAMES: dict[str, tuple[int, tuple[str, ...]]] = {
    "person": (1, ("person",)),
    "vehicle": (2, (
        "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    )),
    "outdoor": (10, ("traffic light", "fire hydrant", "", "stop sign", "parking meter", "bench")),
    "animal": (16, (
        "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe",
    )),
    "accessory": (27, ("backpack", "umbrella", "", "", "handbag", "tie", "suitcase")),
    "sports": (34, (
        "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove",
        "skateboard", "surfboard", "tennis racket",
    )),
    "kitchen": (44, ("bottle", "", "wine glass", "cup", "fork", "knife", "spoon", "bowl")),
    "food": (52, (
        "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut",
        "cake",
    )),
    "furniture": (62, (
        "chair", "couch", "potted plant", "bed", "", "dining table", "", "", "toilet",
    )),
    "electronic": (72, ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone")),
    "appliance": (78, ("microwave", "oven", "toaster", "sink", "refrigerator")),
    "indoor": (84, (
        "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
    )),
}  # fmt: skip

COCO_CATEGORIES: tuple[dict, ...] = tuple(
    {"supercategory": group, "id": first + offset, "name": name}
    for group, (first, names) in _COCO_NAMES.items()
    for offset, name in enumerate(names)
    if name
)
"""The 80 categories of COCO's instance files, in order of their ids."""

COCO_IDS: dict[str, int] = {category["name"]: category["id"] for category in COCO_CATEGORIES}

VOC_CLASSES: tuple[str, ...] = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""The 20 classes of PASCAL VOC."""

CITYSCAPES_IDS: dict[str, tuple[int, int, bool]] = {
    "unlabeled": (0, 255, False), "static": (4, 255, False), "dynamic": (5, 255, False),
    "ground": (6, 255, False), "road": (7, 0, False), "sidewalk": (8, 1, False),
    "building": (11, 2, False), "wall": (12, 3, False), "fence": (13, 4, False),
    "pole": (17, 5, False), "traffic light": (19, 6, False), "traffic sign": (20, 7, False),
    "vegetation": (21, 8, False), "terrain": (22, 9, False), "sky": (23, 10, False),
    "person": (24, 11, True), "rider": (25, 12, True), "car": (26, 13, True),
    "truck": (27, 14, True), "bus": (28, 15, True), "motorcycle": (32, 17, True),
    "bicycle": (33, 18, True),
}  # fmt: skip
"""Cityscapes label name -> (id, train id, whether it has instances)."""
