"""The picture shows the test images spread evenly, and says in colour what is right."""

import cv2
import numpy as np
import pytest
import torch

from mls_d2.evaluation.classification_pictures import compare, write_classifications


class Fake(torch.nn.Module):
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


def draw(path, model, colours="RGB"):
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
    right = draw(tmp_path / "right.png", Fake(1))
    assert right["green"] > 30
    assert right["red"] == 0
    assert right["blue"] > 5000
    wrong = draw(tmp_path / "wrong.png", Fake(2))
    assert wrong["red"] > 30
    assert wrong["green"] == 0
    # Where the input is BGR, its last channel is red.
    assert draw(tmp_path / "bgr.png", Fake(1), "BGR")["red"] > 5000


def test_images_are_spread_and_the_mode_is_kept(tmp_path):
    model = Fake(0).train()
    draw(tmp_path / "a.png", model)
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
    assert compare(scores, classes, difficult) == expected
