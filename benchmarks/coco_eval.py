#!/usr/bin/env python3
"""The time of COCO's evaluation: faster-coco-eval, which this project uses, and pycocotools.

Both get the same random ground truth and detections, of COCO val2017's size by default, and must
give the same numbers. Loading the detections counts; loading the ground truth does not.

Example:
    python benchmarks/coco_eval.py --images 5000 --detections 20
"""

import contextlib
import copy
import io
import time
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools.coco import COCO as OfficialCOCO
from pycocotools.cocoeval import COCOeval
from timing import parse

from mls_d2.core.errors import UserError, run_tool

HEIGHT, WIDTH, CATEGORIES = 480, 640, 80
# Of COCO val2017: 36,781 objects in 5,000 images.
OBJECTS = 7.36


def draw(images: int, detections: int, seed: int = 0) -> tuple[dict[str, Any], list[dict]]:
    """Return ground truth, and detections of which a third lie near an object."""
    rng = np.random.default_rng(seed)
    truth: list[dict] = []
    found: list[dict] = []
    for image in range(1, images + 1):
        count = rng.poisson(OBJECTS)
        boxes, labels = _boxes(rng, count), rng.integers(1, CATEGORIES + 1, count)
        for box, label in zip(boxes, labels, strict=True):
            x, y, w, h = box.tolist()
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            item = {"id": len(truth) + 1, "image_id": image, "category_id": int(label)}
            shape: dict[str, Any] = {"bbox": [x, y, w, h], "area": w * h, "segmentation": [corners]}
            truth.append({**item, **shape, "iscrowd": 0})
        guesses, kinds = _boxes(rng, detections), rng.integers(1, CATEGORIES + 1, detections)
        near = min(count, detections // 3)
        guesses[:near] = (boxes[:near] + rng.normal(0, 4, (near, 4))).clip(1)
        kinds[:near] = labels[:near]
        masks = mask_util.frPyObjects(guesses, HEIGHT, WIDTH)
        scores = rng.random(detections)
        for box, kind, score, mask in zip(guesses, kinds, scores, masks, strict=True):
            rle = {"size": mask["size"], "counts": mask["counts"].decode()}
            scored = {"image_id": image, "category_id": int(kind), "score": float(score)}
            found.append({**scored, "bbox": box.tolist(), "segmentation": rle})
    listed = [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)]
    categories = [{"id": i, "name": str(i)} for i in range(1, CATEGORIES + 1)]
    return {"images": listed, "annotations": truth, "categories": categories, "info": {}}, found


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return ``(count, 4)`` x, y, width, height, small ones often."""
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    corners = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corners, sides], axis=1)


def evaluate(kind: str, truth: dict[str, Any], found: list[dict], task: str) -> tuple[float, Any]:
    """Return seconds and the twelve numbers of one of the two tools."""
    dropped = "segmentation" if task == "bbox" else "bbox"
    copies = [{k: v for k, v in item.items() if k != dropped} for item in found]
    with contextlib.redirect_stdout(io.StringIO()):
        if kind == "faster-coco-eval":
            loaded = COCO(copy.deepcopy(truth))
            start = time.perf_counter()
            evaluation = COCOeval_faster(loaded, loaded.loadRes(copies), task, extra_calc=False)
        else:
            loaded = OfficialCOCO()
            loaded.dataset = copy.deepcopy(truth)
            loaded.createIndex()
            start = time.perf_counter()
            evaluation = COCOeval(loaded, loaded.loadRes(copies), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return time.perf_counter() - start, np.asarray(evaluation.stats[:12], dtype=float)


def main() -> None:
    """Run both for boxes and for masks, and print seconds and ratios."""
    args = parse(__doc__, images=5000, detections=20)
    if args.images < 1 or args.detections < 1:
        raise UserError("--images and --detections must be at least 1", code="bad-value")
    truth, found = draw(args.images, args.detections)
    objects = len(truth["annotations"])
    print(f"{args.images} images, {objects} objects, {len(found)} detections, one run of each")
    for task in ("bbox", "segm"):
        seconds, stats = zip(
            *(evaluate(kind, truth, found, task) for kind in ("pycocotools", "faster-coco-eval")),
            strict=True,
        )
        gap = float(np.abs(stats[0] - stats[1]).max())
        if gap > 1e-6:
            raise UserError(f"{task}: the two tools differ by {gap:.2e}", code="not-equal")
        print(
            f"  {task}: pycocotools {seconds[0]:.1f} s, faster-coco-eval {seconds[1]:.1f} s: "
            f"{seconds[0] / seconds[1]:.1f} times as fast; AP {100 * stats[0][0]:.2f} from both"
        )


if __name__ == "__main__":
    run_tool(main)
