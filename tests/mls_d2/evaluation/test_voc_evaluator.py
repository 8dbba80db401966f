"""VOC's AP of hand-made detections, difficult objects, absent classes, and Detectron2's numbers."""

import math
import xml.etree.ElementTree as ET

import detectron2.utils.comm as comm
import numpy as np
import pytest
import torch
from detectron2.data.datasets.pascal_voc import CLASS_NAMES, register_pascal_voc
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

from mls_d2.evaluation.voc_evaluator import VocEvaluator

SIZE = 100
DOG, CAT = CLASS_NAMES.index("dog"), CLASS_NAMES.index("cat")


def write_annotation(path, objects):
    """Write objects of (class name, (xmin, ymin, xmax, ymax) of VOC, difficult)."""
    tree = ET.Element("annotation")
    size = ET.SubElement(tree, "size")
    for tag, value in (("width", SIZE), ("height", SIZE), ("depth", 3)):
        ET.SubElement(size, tag).text = str(value)
    for name, box, difficult in objects:
        item = ET.SubElement(tree, "object")
        for tag, value in (("name", name), ("pose", "x"), ("truncated", 0)):
            ET.SubElement(item, tag).text = str(value)
        ET.SubElement(item, "difficult").text = str(int(difficult))
        bounds = ET.SubElement(item, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ET.SubElement(bounds, tag).text = str(value)
    path.write_bytes(ET.tostring(tree))


@pytest.fixture
def make_dataset(tmp_path):
    """Register images' objects in VOC's layout; return the dataset's name."""

    def make(images, year=2007):
        name = f"test_voc_{len(list(tmp_path.iterdir()))}"
        folder = tmp_path / name
        for part in ("Annotations", "ImageSets/Main"):
            (folder / part).mkdir(parents=True)
        for image, objects in images.items():
            write_annotation(folder / "Annotations" / f"{image}.xml", objects)
        (folder / "ImageSets/Main/test.txt").write_text("".join(f"{i}\n" for i in images))
        register_pascal_voc(name, str(folder), "test", year)
        return name

    return make


def detections(*found):
    """Return instances of (class, score, box of VOC)."""
    instances = Instances((SIZE, SIZE))
    boxes = torch.tensor([box for *_, box in found], dtype=torch.float32).reshape(-1, 4)
    boxes[:, :2] -= 1  # VOC's first pixel is 1, and its boxes hold their last one
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.tensor([score for _, score, _ in found])
    instances.pred_classes = torch.tensor([number for number, *_ in found], dtype=torch.long)
    return {"instances": instances}


# Two dogs, a dog and a difficult one, and a cat that is difficult.
IMAGES = {
    "000001": [("dog", (11, 11, 30, 30), False), ("dog", (51, 51, 70, 70), False)],
    "000002": [
        ("dog", (11, 11, 30, 30), False),
        ("dog", (51, 51, 70, 70), True),
        ("cat", (1, 1, 9, 9), True),
    ],
}
FOUND = {
    "000001": detections((DOG, 0.9, (11, 11, 30, 30)), (DOG, 0.8, (71, 11, 90, 30))),
    # A difficult dog, and one of 6 rows too low: IoU 14 / 26 = 0.54.
    "000002": detections((DOG, 0.7, (51, 51, 70, 70)), (DOG, 0.6, (11, 17, 30, 36))),
}


def evaluate(evaluator, found):
    evaluator.reset()
    for image, output in found.items():
        evaluator.process([{"image_id": image}], [output])
    return evaluator.evaluate()["bbox"]


def test_ap_of_hand_made_detections_at_eleven_points(make_dataset):
    result = evaluate(VocEvaluator(make_dataset(IMAGES)), FOUND)
    # Of three dogs. At 0.5: right, wrong, (difficult), right. Precision is 1 up to recall 1/3, 2/3
    # up to 2/3: 4 of the 11 points, and 3. From 0.55 on the last one is wrong, too.
    at_50, above = 100 * (4 + 3 * 2 / 3) / 11, 100 * 4 / 11
    assert result["AP50"] == pytest.approx(at_50)
    assert result["AP75"] == pytest.approx(above)
    assert result["AP"] == result["AP-dog"] == pytest.approx((at_50 + 9 * above) / 10)


def test_after_2007_the_area_below_the_curve_counts(make_dataset):
    result = evaluate(VocEvaluator(make_dataset(IMAGES, year=2012)), FOUND)
    assert result["AP50"] == pytest.approx(100 * (1 / 3 + 1 / 3 * 2 / 3))
    assert result["AP75"] == pytest.approx(100 / 3)


def test_classes_without_objects_are_left_aside_and_missed_ones_are_not(make_dataset):
    images = IMAGES | {"000003": [("sofa", (1, 1, 50, 50), False)]}
    false_alarm = FOUND | {"000003": detections((CAT, 0.9, (1, 1, 50, 50)))}
    result = evaluate(VocEvaluator(make_dataset(images)), false_alarm)
    assert math.isnan(result["AP-cat"])
    assert math.isnan(result["AP-train"])
    assert result["AP-sofa"] == 0
    assert result["AP"] == pytest.approx(result["AP-dog"] / 2)


def random_case(seed):
    """Objects of every class, and detections near them and anywhere."""
    rng = np.random.default_rng(seed)
    images, found = {}, {}
    for number in range(30):
        name, objects, boxes = f"{number:06d}", [], []
        for index in rng.integers(0, len(CLASS_NAMES), 4):
            corner, side = rng.integers(1, 60, 2), rng.integers(8, 40, 2)
            box = (*corner.tolist(), *(corner + side).tolist())
            objects.append((CLASS_NAMES[index], box, bool(rng.random() < 0.2)))
            for _ in range(rng.integers(0, 3)):
                near = tuple(float(v) for v in np.array(box) + rng.normal(0, 2, 4))
                guess = index if rng.random() < 0.9 else rng.integers(0, len(CLASS_NAMES))
                boxes.append((int(guess), float(rng.random()), near))
        images[name], found[name] = objects, detections(*boxes)
    return images, found


@pytest.mark.parametrize("year", [2007, 2012])
def test_with_every_class_the_numbers_are_detectron2s(make_dataset, year):
    images, found = random_case(3)
    name = make_dataset(images, year)
    counted = {item[0] for objects in images.values() for item in objects if not item[2]}
    assert counted == set(CLASS_NAMES)
    ours, theirs = (
        evaluate(kind(name), found) for kind in (VocEvaluator, PascalVOCDetectionEvaluator)
    )
    assert 5 < theirs["AP"] < 95
    for metric, value in theirs.items():
        assert ours[metric] == pytest.approx(value, abs=1e-9)


def test_processes_share_their_detections(make_dataset, monkeypatch):
    name = make_dataset(IMAGES)
    whole = evaluate(VocEvaluator(name), FOUND)
    first, second = VocEvaluator(name), VocEvaluator(name)
    for evaluator, image in ((first, "000001"), (second, "000002")):
        evaluator.reset()
        evaluator.process([{"image_id": image}], [FOUND[image]])
    monkeypatch.setattr(comm, "gather", lambda data, dst: [data, second._predictions])
    assert first.evaluate()["bbox"] == pytest.approx(whole, nan_ok=True)


def test_nothing_detected_is_zero_and_logged(make_dataset, caplog):
    result = evaluate(VocEvaluator(make_dataset(IMAGES)), {"000001": detections()})
    assert result["AP"] == result["AP50"] == 0
    assert "detected nothing in 2 images" in caplog.text


def test_nothing_to_detect_is_no_number(make_dataset):
    assert math.isnan(evaluate(VocEvaluator(make_dataset({"000001": []})), {})["AP"])


def test_equal_scores_count_in_the_order_of_the_list_of_images(make_dataset):
    images = {
        f"{number:06d}": [("dog", (11, 11, 30, 30), False)] if number % 3 == 0 else []
        for number in range(40)
    }
    name = make_dataset(images, year=2012)
    # All of score 0.5 after rounding to three decimals: hits at ranks 1, 4, 7, …
    found = {image: detections((DOG, 0.5 + 1e-5, (11, 11, 30, 30))) for image in images}
    count = len(range(0, 40, 3))
    precision = [n / (3 * n - 2) for n in range(1, count + 1)]
    expected = 100 * sum(max(precision[n:]) for n in range(count)) / count
    results = []
    for order in (list(images), list(images)[::-1]):
        results.append(evaluate(VocEvaluator(name), {image: found[image] for image in order}))
    assert results[0] == pytest.approx(results[1], nan_ok=True)
    assert results[0]["AP50"] == pytest.approx(expected)


def test_float_coordinates_are_cut_to_whole_numbers(make_dataset):
    images = {
        image: [(name, tuple(c + 0.9 for c in box), hard) for name, box, hard in objects]
        for image, objects in IMAGES.items()
    }
    whole, cut = (evaluate(VocEvaluator(make_dataset(item)), FOUND) for item in (IMAGES, images))
    assert cut == pytest.approx(whole, nan_ok=True)
