"""The picture shows ground truth above and confident detections below."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from mls_d2.evaluation.pictures import write_detections, write_segmentations

SIDE, HEIGHT = 40, 120


@pytest.fixture
def grey_images(tmp_path):
    """Five grey images, of which all but the second have two objects."""
    records = []
    for index in range(5):
        path = str(tmp_path / f"{index}.png")
        cv2.imwrite(path, np.full((SIDE, SIDE, 3), 128, np.uint8))
        box = {"bbox": [4, 4, 16, 16], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
        annotations = [dict(box) for _ in range(1 if index == 1 else 2)]
        size = {"height": SIDE, "width": SIDE}
        records.append({"file_name": path, "image_id": index, "annotations": annotations} | size)
    DatasetCatalog.register("grey", lambda: records)
    MetadataCatalog.get("grey").set(thing_classes=["x"], thing_colors=[(255, 0, 0)])
    yield
    DatasetCatalog.remove("grey")
    MetadataCatalog.remove("grey")


class Fake(torch.nn.Module):
    """Detects one box with a fixed score in every image."""

    def __init__(self, score):
        super().__init__()
        self.score = score
        self.seen = []

    def forward(self, inputs):
        assert not self.training
        self.seen.append(inputs[0]["image_id"])
        found = Instances((SIDE, SIDE))
        found.pred_boxes = Boxes(torch.tensor([[20.0, 20, 36, 36]]))
        found.scores = torch.tensor([self.score])
        found.pred_classes = torch.tensor([0])
        return [{"instances": found}]


def draw(path, model):
    cfg = get_cfg()
    cfg.DATASETS.TEST = ("grey",)
    cfg.INPUT.MIN_SIZE_TEST = SIDE
    write_detections(str(path), model, cfg, num_images=3, height=HEIGHT)
    image = cv2.imread(str(path)).astype(int)
    coloured = np.abs(image - image.mean(axis=2, keepdims=True)).max(axis=2) > 8
    half = len(image) // 2
    return image, coloured[:half].sum(), coloured[half:].sum()


def test_confident_detections_are_drawn_and_others_are_not(tmp_path, grey_images):
    image, truth, drawn = draw(tmp_path / "sure.png", Fake(0.9).train())
    assert image.shape[1] == pytest.approx(3 * HEIGHT, abs=4)
    assert truth > 100
    assert drawn > 100
    _, truth, drawn = draw(tmp_path / "unsure.png", Fake(0.1))
    assert truth > 100
    assert drawn == 0


def test_images_are_spread_over_those_with_two_objects_and_the_mode_is_kept(tmp_path, grey_images):
    model = Fake(0.9).train()
    draw(tmp_path / "a.png", model)
    assert model.training
    # Of 0, 2, 3 and 4: first, middle and last, where numpy rounds the middle to even.
    assert model.seen == [0, 3, 4]


def test_segmentations_are_image_truth_and_prediction_in_the_classes_colours(tmp_path):
    colors = np.array([(255, 0, 0), (0, 0, 255)], np.uint8)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[:, 20:] = 255
    records = [{"file_name": str(tmp_path / "i.png"), "sem_seg_file_name": str(tmp_path / "l.png")}]
    cv2.imwrite(records[0]["file_name"], np.full((SIDE, SIDE, 3), 128, np.uint8))
    cv2.imwrite(records[0]["sem_seg_file_name"], labels)

    class Second(torch.nn.Module):
        def forward(self, inputs):
            assert not self.training
            logits = torch.zeros(2, SIDE, SIDE)
            logits[1] = 1
            return [{"sem_seg": logits}]

    path, model = str(tmp_path / "a.png"), Second().train()
    write_segmentations(path, model, dict, records, colors, num_images=2, height=HEIGHT)
    assert model.training
    image = cv2.imread(path)[..., ::-1]  # RGB
    assert image.shape[1] == pytest.approx(HEIGHT, abs=4)
    third, quarter = len(image) // 3, image.shape[1] // 4
    rows = [third // 2, third + third // 2, 2 * third + third // 2]
    left = [image[row, quarter].tolist() for row in rows]
    right = [image[row, 3 * quarter].tolist() for row in rows]
    assert left == [[128] * 3, [255, 0, 0], [0, 0, 255]]
    assert right == [[128] * 3, [0, 0, 0], [0, 0, 255]]
