#!/usr/bin/env python3
"""Make a root of synthetic scenes that Detectron2's builtin dataset names can load.

Example:
    python tools/make_scenes.py --root datasets/scenes --train 400 --val 300 --unlabeled 4000
    DETECTRON2_DATASETS=datasets/scenes python tools/train_net.py …
"""

import argparse
import colorsys
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mls_d2.core.errors import UserError, run_tool
from mls_d2.core.files import write_image
from mls_d2.scenes import SceneParams, generate


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = SceneParams()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", required=True, help="folder to write, new or made by this tool")
    add("--seed", type=int, default=defaults.seed)
    for name, text in (
        ("train", "images in COCO train2017"),
        ("val", "images in COCO val2017"),
        ("unlabeled", "images in COCO unlabeled2017"),
        ("voc", "images in each of VOC2007 trainval, VOC2007 test and VOC2012 trainval"),
        ("cityscapes", "images in Cityscapes train; val has a fifth as many"),
    ):
        count = getattr(defaults, name)
        add(f"--{name}", type=int, default=count, metavar="N", help=f"{text} (default {count})")
    text = "pixels of an image (default 128 128)"
    add("--size", type=int, nargs=2, default=defaults.size, metavar=("W", "H"), help=text)
    add("--workers", type=int, default=None, help="processes (default: one per core)")
    text = "also draw the first scenes, with and without annotations, into this file"
    add("--contact-sheet", type=Path, metavar="FILE.png", help=text)
    return parser.parse_args(arguments)


def contact_sheet(root: Path, *, count: int = 16, columns: int = 4, scale: int = 3) -> np.ndarray:
    """Draw the first scenes of COCO train2017, each without and with its annotations.

    Args:
        root: a root of scenes.
        count: how many scenes at most.
        columns: scenes per row; each takes two tiles.
        scale: pixels of the sheet per pixel of an image.

    Returns:
        BGR ``(H, W, 3)`` uint8.

    Raises:
        UserError: the root has no labelled scenes.
    """
    path = root / "coco" / "annotations" / "instances_train2017.json"
    if not path.is_file():
        raise UserError(
            f"a contact sheet shows scenes of train2017, and there is no {path}; ask for --train",
            code="missing-data",
        )
    content = json.loads(path.read_bytes())
    names = {category["id"]: category["name"] for category in content["categories"]}
    pairs = []
    for image in content["images"][:count]:
        pixels = cv2.imread(str(root / "coco" / "train2017" / image["file_name"]))
        assert pixels is not None, f"{image['file_name']} was just written"
        plain = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        found = [item for item in content["annotations"] if item["image_id"] == image["id"]]
        labelled = [(names[item["category_id"]], item) for item in found]
        pairs.append(np.concatenate((plain, draw_annotations(plain, labelled, scale)), axis=1))
    pairs += [np.zeros_like(pairs[0])] * (-len(pairs) % columns)
    rows = [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def draw_annotations(
    image: np.ndarray, annotations: Sequence[tuple[str, dict]], scale: int
) -> np.ndarray:
    """Return a copy of an enlarged image with masks, boxes and names drawn over it.

    Args:
        image: BGR ``(H * scale, W * scale, 3)`` uint8.
        annotations: (name, COCO annotation) of each object.
        scale: the enlargement.
    """
    drawn = image.copy()
    for number, (name, item) in enumerate(annotations):
        bgr = colorsys.hsv_to_rgb(number * 0.618 % 1.0, 0.85, 1.0)
        colour = tuple(round(255 * value) for value in bgr)
        for polygon in item["segmentation"]:
            # Corners lie between pixels, the borders that OpenCV fills up to are inside.
            corners = np.array(polygon).reshape(-1, 2) * scale
            cv2.fillPoly(drawn, [(16 * (corners - 0.5)).astype(np.int32)], colour, shift=4)
        x, y, w, h = (round(value * scale) for value in item["bbox"])
        cv2.rectangle(drawn, (x, y), (x + w - 1, y + h - 1), colour, 1)
        place = (x, max(9, y - 2))
        cv2.putText(drawn, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.32, colour, 1, cv2.LINE_AA)
    return cv2.addWeighted(image, 0.5, drawn, 0.5, 0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the scenes that the command line asks for."""
    args = parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = ("seed", "train", "val", "unlabeled", "voc", "cityscapes")
    parameters = {name: getattr(args, name) for name in names} | {"size": tuple(args.size)}
    generate(args.root, num_workers=args.workers, **parameters)
    if args.contact_sheet is not None:
        write_image(str(args.contact_sheet), contact_sheet(Path(args.root))[..., ::-1])
        print(f"contact sheet: {args.contact_sheet}")


if __name__ == "__main__":
    run_tool(main)
