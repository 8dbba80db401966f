"""A detection task of seconds: drawn boxes and a Mask R-CNN of a few thousand weights."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from mls_d2.config.loading import load_cfg
from tests.conftest import REPOSITORY

QUICK = REPOSITORY / "transfer_configs" / "coco" / "mask_rcnn_R_50_FPN_quick.yaml"
SIDE = 64
LOGGERS = ("detectron2", "fvcore", "mls_d2", "pretrain")
# A ResNet of a few thousand weights, for any config.
NETWORK = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 2,
    "DATALOADER.NUM_WORKERS": 0,
}
NARROW = NETWORK | {"MODEL.WEIGHTS": "random"}
DETECTOR = NETWORK | {
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 8,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "TEST.PRECISE_BN.NUM_ITER": 1,
}
NARROW_DETECTOR = NARROW | DETECTOR


def load_with(path, values, opts=()):
    """Return the config of a file with values by key, and then KEY VALUE pairs, merged in."""
    words = [word for pair in values.items() for word in pair]
    return load_cfg(str(path), [str(word) for word in (*words, *opts)])


def forget(names):
    """Remove registered datasets."""
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def draw_split(folder: Path, num_images: int, seed: int) -> None:
    """Write images with two filled boxes each, and their COCO annotations."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for image in range(num_images):
        canvas = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        name = f"{image:03d}.jpg"
        for category in (1, 2):
            x, y = (int(value) for value in rng.integers(0, SIDE - 24, 2))
            canvas[y : y + 20, x : x + 20] = (255, 0, 0) if category == 1 else (0, 255, 0)
            corners = [x, y, x + 20, y, x + 20, y + 20, x, y + 20]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": [x, y, 20, 20],
                    "area": 400,
                    "iscrowd": 0,
                    "segmentation": [corners],
                }
            )
        cv2.imwrite(str(folder / "images" / name), canvas)
        images.append({"id": image, "file_name": name, "width": SIDE, "height": SIDE})
    categories = [{"id": 1, "name": "blue"}, {"id": 2, "name": "green"}]
    content = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
    (folder / "instances.json").write_text(json.dumps(content))


@pytest.fixture(scope="session")
def drawn_boxes(tmp_path_factory):
    """The names of a registered training and a test set."""
    root = tmp_path_factory.mktemp("drawn")
    names = ("drawn_train", "drawn_val")
    for name, number in zip(names, (8, 3), strict=True):
        draw_split(root / name, number, seed=number)
        paths = str(root / name / "instances.json"), str(root / name / "images")
        register_coco_instances(name, {}, *paths)
    yield names
    forget(names)


@pytest.fixture
def make_cfg(tmp_path, drawn_boxes):
    """Return the quick config made tiny, with more KEY VALUE pairs merged in."""

    def make(*opts):
        train, test = drawn_boxes
        tiny = NARROW_DETECTOR | {
            "DATASETS.TRAIN": f"('{train}',)",
            "DATASETS.TEST": f"('{test}',)",
            "MODEL.ROI_HEADS.NUM_CLASSES": 2,
            "SOLVER.BASE_LR": 0.03,
            "SOLVER.MAX_ITER": 2,
            "SOLVER.STEPS": "(90,)",
            "SOLVER.WARMUP_ITERS": 2,
            "SOLVER.CHECKPOINT_PERIOD": 1,
            "OUTPUT_DIR": str(tmp_path / "run"),
        }
        return load_with(QUICK, tiny, opts)

    return make


@pytest.fixture(autouse=True)
def _one_thread():
    # A network of this size spends its time waking the other threads.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """Undo what a run does to the loggers, so that later tests can look at their records."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(item.propagate, item.level, item.handlers[:]) for item in loggers]
    yield
    for item, (propagate, level, handlers) in zip(loggers, before, strict=True):
        item.propagate, item.handlers = propagate, handlers
        item.setLevel(level)
