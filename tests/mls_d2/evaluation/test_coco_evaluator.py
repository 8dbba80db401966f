"""COCO evaluation gives the numbers of the official tool."""

import contextlib
import copy
import io
import json
import math
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from faster_coco_eval import COCO
from pycocotools.coco import COCO as OfficialCOCO
from pycocotools.cocoeval import COCOeval

from mls_d2.core.errors import UserError
from mls_d2.evaluation.coco_evaluator import METRICS, CocoEvaluator, evaluate_detections

SIZE = 160
TASKS = ("bbox", "segm")
CLASSES = {3: "cat", 7: "dog", 90: "boat", 91: "never there"}


def ellipse(center, radii):
    y, x = np.mgrid[:SIZE, :SIZE]
    inside = ((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2 <= 1
    return np.asfortranarray(inside.astype(np.uint8))


def encode(mask):
    rle = mask_util.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def shape(rng, jitter=None):
    center, radii = jitter if jitter else (rng.uniform(20, 140, 2), rng.uniform(4, 70, 2))
    mask = ellipse(center, radii)
    return mask, (center, radii)


def random_case(seed, num_images=12):
    """Return ground truth and detections: jittered, duplicated, misclassified and invented."""
    rng = np.random.default_rng(seed)
    truth, detections = [], []
    for image in range(1, num_images + 1):
        for _ in range(rng.integers(0, 6)):
            mask, place = shape(rng)
            category = int(rng.choice([3, 7, 90]))
            rle = encode(mask)
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "area": float(mask.sum()),
                    "segmentation": rle,
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
            for _ in range(rng.integers(0, 3)):
                moved = place[0] + rng.normal(0, 4, 2), place[1] * rng.uniform(0.8, 1.2, 2)
                wrong = rng.random() < 0.2
                detections.append(detect(rng, image, 3 if wrong else category, moved))
        for _ in range(rng.integers(0, 3)):
            detections.append(detect(rng, image, int(rng.choice([3, 7, 90])), None))
    size = {"width": SIZE, "height": SIZE}
    images = [{"id": i, "file_name": f"{i}.jpg"} | size for i in range(1, num_images + 1)]
    categories = [{"id": key, "name": name} for key, name in CLASSES.items()]
    dataset = {"images": images, "annotations": truth, "categories": categories, "info": {}}
    return dataset, [detection for detection in detections if detection["bbox"][2] > 0]


def detect(rng, image, category, place):
    mask, _ = shape(rng, place)
    rle = encode(mask)
    return {
        "image_id": image,
        "category_id": category,
        "bbox": mask_util.toBbox(rle).tolist(),
        "segmentation": rle,
        # One decimal only, so that equal scores occur.
        "score": round(float(rng.random()), 1),
    }


def official(dataset, detections, task):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = OfficialCOCO()
        truth.dataset = copy.deepcopy(dataset)
        truth.createIndex()
        copies = copy.deepcopy(detections)
        if task == "segm":
            for item in copies:
                del item["bbox"]
        evaluation = COCOeval(truth, truth.loadRes(copies), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def evaluate(dataset, detections):
    return evaluate_detections(COCO(copy.deepcopy(dataset)), detections, TASKS, CLASSES)


@pytest.mark.parametrize("seed", range(3))
def test_all_metrics_equal_those_of_pycocotools(seed):
    dataset, detections = random_case(seed)
    results = evaluate(dataset, detections)
    assert results["bbox"]["AP"] != results["segm"]["AP"]
    for task in TASKS:
        reference = official(dataset, detections, task)
        expected = [100 * value if value >= 0 else math.nan for value in reference.stats[:6]]
        found = [results[task][name] for name in METRICS]
        assert found == pytest.approx(expected, abs=1e-10, nan_ok=True)
        # Something between the trivial ends, so that equality means something.
        assert 5 < results[task]["AP"] < 95
        precision = reference.eval["precision"][:, :, :, 0, -1]
        for index, name in enumerate(CLASSES.values()):
            known = precision[:, :, index][precision[:, :, index] > -1]
            by_hand = 100 * known.mean() if known.size else math.nan
            assert results[task][f"AP-{name}"] == pytest.approx(by_hand, abs=1e-10, nan_ok=True)


def test_the_ground_truth_itself_scores_100_and_nothing_0():
    dataset, _ = random_case(1)
    perfect = [
        {key: truth[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
        | {"score": 1.0}
        for truth in dataset["annotations"]
        if not truth["iscrowd"]
    ]
    for detections, expected in ((perfect, 100), ([], 0)):
        for result in evaluate(dataset, detections).values():
            assert result["AP"] == pytest.approx(expected)
            assert result["AP-cat"] == pytest.approx(expected)
            assert math.isnan(result["AP-never there"])


@pytest.fixture
def dataset_name(tmp_path):
    dataset, _ = random_case(2)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(dataset))
    name = f"test_coco_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: [])
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_dataset_id_to_contiguous_id={key: i for i, key in enumerate(CLASSES)},
        thing_classes=list(CLASSES.values()),
    )
    return name


def instances_of(detections):
    ids = list(CLASSES)
    instances = Instances((SIZE, SIZE))
    boxes = torch.tensor([item["bbox"] for item in detections]).reshape(-1, 4)
    instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    instances.scores = torch.tensor([item["score"] for item in detections])
    instances.pred_classes = torch.tensor([ids.index(item["category_id"]) for item in detections])
    masks = [torch.tensor(mask_util.decode(item["segmentation"])) > 0 for item in detections]
    instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, SIZE, SIZE)
    return instances


@pytest.mark.parametrize("change", [None, "area", "id"])
def test_the_evaluator_turns_instances_into_the_same_numbers(dataset_name, change, tmp_path):
    dataset, detections = random_case(2)
    if change:  # areas are those of the masks, and an object of id 0 is as good as any other
        path = Path(MetadataCatalog.get(dataset_name).json_file)
        content = json.loads(path.read_text())
        for item in content["annotations"]:
            item.update({"area": None} if change == "area" else {"id": item["id"] - 1})
        path.write_text(json.dumps(content))
    path = tmp_path / "predictions.json"
    evaluator = CocoEvaluator(dataset_name, TASKS, save_to=str(path))
    evaluator.reset()
    for image in dataset["images"]:
        mine = [item for item in detections if item["image_id"] == image["id"]]
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances_of(mine)}])
    results = evaluator.evaluate()
    saved = json.loads(path.read_text())
    assert len(saved) == len(detections)
    for task in TASKS:
        reference = official(dataset, detections, task)
        # What is saved has the same AP by the official tool.
        assert official(dataset, saved, task).stats[0] == pytest.approx(reference.stats[0])
        # Boxes and scores went through float32.
        for name, value in zip(METRICS, reference.stats, strict=False):
            assert results[task][name] == pytest.approx(100 * value, abs=1e-3)
    evaluator.reset()
    assert evaluator.evaluate()["bbox"]["AP"] == 0


def test_the_main_process_alone_reads_the_annotations(dataset_name, monkeypatch):
    Path(MetadataCatalog.get(dataset_name).json_file).unlink()
    evaluator = CocoEvaluator(dataset_name, TASKS)
    with pytest.raises(UserError):
        evaluator.evaluate()
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert evaluator.evaluate() == {}
