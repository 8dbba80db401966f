"""Pictures of predictions, beside the truth."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from mls_d2.evaluation.pictures import (
    BoundedVisualizer,
    captions,
    draw_output,
    overlay,
    truth_and_found,
    write_classifications,
    write_detections,
    write_segmentations,
)

IMAGE = np.full((48, 64, 3), 100, np.uint8)


def test_lightened_colors_stay_in_their_range(monkeypatch):
    monkeypatch.setattr("colorsys.hls_to_rgb", lambda *_: (1 + 1e-15, -1e-17, 0.5))
    drawn = BoundedVisualizer(IMAGE, Metadata())
    assert drawn._change_color_brightness((1.0, 0.9, 0.8), 0.7) == (1.0, 0.0, 0.5)


def instances(score):
    found = Instances((48, 64))
    found.pred_boxes = Boxes(torch.tensor([[10.0, 10, 40, 40]]))
    found.scores = torch.tensor([score])
    found.pred_classes = torch.tensor([1])
    return {"instances": found}


def test_colours_of_classes_are_mixed_by_hand():
    labels = np.array([[0, 1]])
    palette = np.array([[0, 0, 0], [250, 50, 0]])
    mixed = overlay(IMAGE[:1, :2], labels, palette)
    assert mixed.tolist() == [[[40, 40, 40], [190, 70, 40]]]


def test_segmentation_is_drawn_in_the_datasets_colours():
    scores = torch.zeros(2, 48, 64)
    scores[1, :, 32:] = 1
    metadata = Metadata(stuff_colors=[(0, 0, 0), (255, 0, 0)])
    drawn = draw_output(IMAGE, {"sem_seg": scores}, metadata, min_score=0.5)
    assert drawn.shape == IMAGE.shape
    assert np.unique(drawn[:, :32].reshape(-1, 3), axis=0).tolist() == [[40, 40, 40]]
    assert np.unique(drawn[:, 32:].reshape(-1, 3), axis=0).tolist() == [[193, 40, 40]]


@pytest.mark.parametrize(("score", "seen"), [(0.9, True), (0.2, False)])
def test_only_detections_that_are_sure_enough_are_drawn(score, seen):
    drawn = draw_output(IMAGE, instances(score), Metadata(thing_classes=["a", "b"]), min_score=0.5)
    assert drawn.shape[0] == 480
    assert (np.abs(drawn.astype(int) - 100).max() > 5) == seen


def test_thin_images_are_not_enlarged_beyond_a_width():
    thin = np.full((2, 1024, 3), 100, np.uint8)
    drawn = draw_output(thin, instances(0.1), Metadata(), min_score=0.5)
    assert drawn.shape == (8, 4096, 3)


def test_another_output_is_refused(refuses):
    with refuses("bad-value"):
        draw_output(IMAGE, {"scores": torch.zeros(3)}, Metadata(), min_score=0.5)


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


class Fake(torch.nn.Module):
    """Detects boxes beside one another, with fixed scores, in every image."""

    def __init__(self, *scores):
        super().__init__()
        self.scores = scores
        self.seen = []

    def forward(self, inputs):
        assert not self.training
        self.seen.append(inputs[0]["image_id"])
        found = Instances((SIDE, SIDE))
        boxes = [[20.0 * i, 20, 20 * i + 16, 36] for i in range(len(self.scores))]
        found.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        found.scores = torch.tensor(self.scores)
        found.pred_classes = torch.zeros(len(self.scores), dtype=torch.long)
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


def test_confident_detections_are_drawn_and_of_others_the_best(tmp_path, grey_images):
    image, truth, one = draw(tmp_path / "sure.png", Fake(0.9).train())
    assert image.shape[1] == pytest.approx(3 * HEIGHT, abs=4)
    assert truth > 100
    assert one > 100
    both = draw(tmp_path / "both.png", Fake(0.4, 0.9))[2]
    assert both > 1.5 * one
    assert draw(tmp_path / "unsure.png", Fake(0.9, 0.3))[2] == pytest.approx(one, rel=0.1)
    assert draw(tmp_path / "best.png", Fake(0.2, 0.1))[2] == pytest.approx(one, rel=0.1)
    assert draw(tmp_path / "none.png", Fake())[2] == 0


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


class FakeClassifier(torch.nn.Module):
    """Takes every image for the same class."""

    def __init__(self, label):
        super().__init__()
        self.label, self.seen = label, []

    def forward(self, inputs):
        assert not self.training
        self.seen += [item["image_id"] for item in inputs]
        return [{"scores": torch.eye(3)[self.label]} for _ in inputs]


def mapper(record):
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[2] = 255
    return {**record, "image": image}


def draw_classes(path, model, colours="RGB"):
    records = [{"image_id": n, "classes": [1], "difficult": []} for n in range(9)]
    write_classifications(
        str(path), model, records, mapper, ("ant", "bee", "cow"), colours, num_images=3
    )
    picture = cv2.imread(str(path)).astype(int)
    blue, green, red = picture[..., 0], picture[..., 1], picture[..., 2]
    return {
        "blue": ((blue > 200) & (red < 80) & (green < 80)).sum(),
        "green": ((green > blue + 60) & (green > red + 60)).sum(),
        "red": ((red > blue + 60) & (red > green + 60)).sum(),
    }


def test_right_is_green_and_wrong_is_red(tmp_path):
    right = draw_classes(tmp_path / "right.png", FakeClassifier(1))
    assert right["green"] > 30
    assert right["red"] == 0
    assert right["blue"] > 5000
    wrong = draw_classes(tmp_path / "wrong.png", FakeClassifier(2))
    assert wrong["red"] > 30
    assert wrong["green"] == 0
    # Where the input is BGR, its last channel is red.
    assert draw_classes(tmp_path / "bgr.png", FakeClassifier(1), "BGR")["red"] > 5000


def test_images_are_spread_and_the_mode_is_kept(tmp_path):
    model = FakeClassifier(0).train()
    draw_classes(tmp_path / "a.png", model)
    assert model.seen == [0, 4, 8]
    assert model.training


@pytest.mark.parametrize(
    ("classes", "difficult", "expected"),
    [
        ([3, 1], [0], ([1, 3], [0, 2])),
        ([], [1], ([1], [2])),
        ([], [], ([], [2])),
    ],
)
def test_as_many_classes_are_found_as_there_are(classes, difficult, expected):
    scores = torch.from_numpy(np.array([0.5, 0.1, 0.9, 0.2]))
    assert truth_and_found(scores, classes, difficult) == expected


NAMES = ("person", "bus", "boat", "traffic light", "potted plant", "dining table")


def test_every_class_is_named_and_coloured_by_itself():
    # A bus that was found is right, whatever else is missing.
    assert captions([0, 1], [1, 2], {0, 1}, NAMES) == [
        ("is: person, bus", "black"),
        ("right: bus", "green"),
        ("wrong: boat", "firebrick"),
    ]
    assert captions([], [2], set(), NAMES) == [
        ("is: none of them", "black"),
        ("wrong: boat", "firebrick"),
    ]


def test_no_class_of_an_image_with_many_is_cut():
    every = list(range(6))
    lines = captions(every, every, set(every), NAMES)
    for word, colour in (("is", "black"), ("right", "green")):
        text = " ".join(line for line, found in lines if found == colour)
        assert text == f"{word}: {', '.join(NAMES)}"
    assert max(len(line) for line, _ in lines) <= 26


def test_the_picture_has_room_for_all_lines(tmp_path):
    """The last line of the lowest image is drawn, above the picture's border."""
    records = [{"image_id": 0, "classes": [*range(3)], "difficult": []}]
    names = ("a long name of a class", "another long name", "a third name of a class")
    path = tmp_path / "a.png"
    write_classifications(str(path), FakeClassifier(1), records, mapper, names, "RGB")
    picture = cv2.imread(str(path)).astype(int)
    ink = np.nonzero((picture < 250).any(axis=(1, 2)))[0]
    assert picture.shape[0] - 24 < ink.max() < picture.shape[0] - 1
