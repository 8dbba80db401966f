"""What the features tell apart is found, and measuring changes nothing."""

import json
import os
from types import SimpleNamespace

import detectron2.utils.comm as comm
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from torch import nn

from mls_d2.checkpoint.backbone_file import read_backbone
from pretrain.annotations import Annotations
from pretrain.online_eval import OnlineEvaluation, build_online_eval, spaced
from pretrain.run import pretrain


class Colour(nn.Module):
    """A backbone whose feature is the picture's mean colour, after BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": self.dropout(self.norm(images))}


@pytest.fixture
def data(tmp_path) -> Annotations:
    """Red pictures show a, blue ones b; one file is broken."""
    paths = []
    for index in range(9):
        pixels = np.zeros((12, 10, 3), np.uint8)
        pixels[..., 0 if index % 2 else 2] = 150 + 10 * index
        paths.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(pixels).save(paths[-1])
    (tmp_path / "0.png").write_bytes(b"")
    boxes = tuple(np.zeros((1, 4)) for _ in paths)
    return Annotations(tuple(paths), boxes, tuple(np.array([i % 2]) for i in range(9)), ("a", "b"))


def test_what_the_features_tell_apart_is_found_and_nothing_else_changes(data):
    torch.manual_seed(0)
    backbone = Colour().train()
    hook = OnlineEvaluation(
        backbone, data, data, period=1, size=8, mean=[0.0] * 3, std=[255.0] * 3, k=3
    )
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in backbone.state_dict().items()}
    assert hook.measure() == 1.0
    assert backbone.training
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(state[name], value) for name, value in backbone.state_dict().items())


def test_a_limit_takes_images_from_all_of_the_dataset(data):
    assert spaced(data, 100) == data
    few = spaced(data, 3)
    assert [path[-5:] for path in few.paths] == ["0.png", "3.png", "6.png"]
    assert len(few.boxes) == len(few.categories) == 3


def test_other_processes_read_no_annotations(config, monkeypatch):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    cfg = config(PRETRAIN__ONLINE_EVAL__PERIOD="1.0", PRETRAIN__ONLINE_EVAL__TRAIN="not there")
    (hook,) = build_online_eval(cfg, Colour(), iters_per_epoch=1)
    hook.trainer = SimpleNamespace(iter=0, max_iter=1)
    hook.after_step()


@pytest.fixture
def labelled(images):
    """The images as a registered dataset: each with a cup or a cat in its middle."""
    name = f"labelled {images}"
    records = [
        {
            "file_name": str(path),
            "annotations": [
                {"bbox": [10, 10, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": index % 2}
            ],
        }
        for index, path in enumerate(sorted(images.iterdir()))
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["cup", "cat"])
    return name


@pytest.mark.parametrize(
    ("file", "classes", "code"),
    [(None, ["cat", "cup"], "other-classes"), ("gone.jpg", ["cup", "cat"], "missing-data")],
)
def test_data_that_do_not_fit_are_refused_before_training(
    config, labelled, refuses, file, classes, code
):
    changes = {"file_name": file} if file else {}
    records = [record | changes for record in DatasetCatalog.get(labelled)]
    DatasetCatalog.register("other", lambda: records)
    MetadataCatalog.get("other").set(thing_classes=classes)
    cfg = config(PRETRAIN__ONLINE_EVAL__PERIOD="1.0", PRETRAIN__ONLINE_EVAL__TRAIN=labelled,
                 PRETRAIN__ONLINE_EVAL__TEST="other")  # fmt: skip
    try:
        with refuses(code) as caught:
            build_online_eval(cfg, Colour(), iters_per_epoch=1)
    finally:
        DatasetCatalog.remove("other")
        MetadataCatalog.remove("other")
    assert "'other'" in str(caught.value)


def test_measuring_with_labels_changes_nothing_but_the_log(config, labelled):
    long = {"PRETRAIN__EPOCHS": "4.0"}
    plain = pretrain(config("plain", **long))
    measured = {
        "DATASETS__TRAIN": f"('{labelled}',)",
        "PRETRAIN__LABEL_QUALITY": "True",
        "PRETRAIN__ONLINE_EVAL__PERIOD": "1.5",
        "PRETRAIN__ONLINE_EVAL__TRAIN": labelled,
        "PRETRAIN__ONLINE_EVAL__TEST": labelled,
    }
    cfg = config("measured", **long, **measured)
    before, after = (read_backbone(path).state_dict for path in (plain, pretrain(cfg)))
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    with open(os.path.join(cfg.OUTPUT_DIR, "metrics.json")) as file:
        rows = [json.loads(line) for line in file]
    assert [row["iteration"] for row in rows if "knn_map" in row] == [2, 5, 7]
    known = [row for row in rows if "label_precision" in row]
    # The dictionary's 16 rows are known after four batches of four.
    assert [row["iteration"] for row in known] == [4, 5, 6, 7]
    for row in known:
        assert 0 <= row["label_precision"] <= 1
        assert 0.2 < row["label_chance"] < 0.8
