"""Batches of labelled images: read, cropped as a recipe says, and stacked by the model."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset, build_detection_train_loader
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2.functional import resize

from mls_d2.data.classification import load_classification
from mls_d2.data.detection import TolerantMapper, number_of_files
from mls_d2.data.images import read_image

_TEST_BATCH = 64
_LONGEST = 64  # times the shorter side

Batch = list[dict[str, Any]]


def train_transform(cfg: CfgNode) -> Callable[[Tensor], Tensor]:
    """Return the random crop and flip of ``cfg.CLASSIFICATION``, for ``(3, H, W)`` uint8."""
    node = cfg.CLASSIFICATION
    if node.TRAIN_CROP == "random_resized":
        crop = [transforms.RandomResizedCrop(node.CROP_SIZE, scale=node.CROP_SCALE, antialias=True)]
    else:
        crop = [_shorter_side(node.RESIZE), transforms.RandomCrop(node.CROP_SIZE)]
    return transforms.Compose([*crop, transforms.RandomHorizontalFlip()])


def test_transform(cfg: CfgNode) -> Callable[[Tensor], Tensor]:
    """Return the crop of ``cfg.CLASSIFICATION`` for testing, for ``(3, H, W)`` uint8."""
    node = cfg.CLASSIFICATION
    if node.TEST_CROP == "center":
        crop: transforms.Transform = transforms.CenterCrop(node.CROP_SIZE)
    else:
        crop = transforms.Resize((node.CROP_SIZE, node.CROP_SIZE), antialias=True)
    return transforms.Compose([_shorter_side(node.RESIZE), crop])


class _ShorterSide(transforms.Resize):
    """torchvision's ``Resize`` to a shorter side.

    Images more than 64 times as long as wide are squeezed before: they would fill the memory.
    """

    def forward(self, image: Tensor) -> Tensor:
        most = _LONGEST * min(image.shape[-2:])
        if max(image.shape[-2:]) > most:
            image = resize(image, [min(side, most) for side in image.shape[-2:]], antialias=True)
        return super().forward(image)


def _shorter_side(size: int) -> transforms.Transform:
    return _ShorterSide(size, antialias=True)


class ClassificationMapper:
    """Turns a record (see :class:`mls_d2.data.classification_readers.Labelled`) into an input.

    Args:
        transform: of the image, ``(3, H, W)`` uint8 to ``(3, S, S)``.
        colours: ``"RGB"`` or ``"BGR"``.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor], *, colours: str) -> None:
        self._transform, self._colours = transform, colours

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the record with ``image``, ``(3, S, S)`` uint8.

        Raises:
            BrokenImageError: the file cannot be read.
        """
        pixels = read_image(record["file_name"])
        if "box" in record:
            left, top, right, bottom = record["box"]
            pixels = pixels[top:bottom, left:right]
        if self._colours == "BGR":
            pixels = pixels[:, :, ::-1]
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        return {**record, "image": self._transform(image).contiguous()}


def build_train_loader(cfg: CfgNode) -> Iterable[Batch]:
    """Return endless batches of this process: all images of ``DATASETS.TRAIN`` in random order.

    Images that cannot be read are left out: see :class:`TolerantMapper`.
    """
    records = _records(cfg.DATASETS.TRAIN)
    mapper = ClassificationMapper(train_transform(cfg), colours=cfg.INPUT.FORMAT)
    return build_detection_train_loader(
        records,
        mapper=TolerantMapper(mapper, is_train=True, total=number_of_files(records)),
        sampler=TrainingSampler(len(records)),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def build_test_loader(cfg: CfgNode, names: Sequence[str]) -> Iterable[Batch]:
    """Return batches of this process's share of datasets, each image once, cropped for testing.

    Raises:
        UnreadableImageError: from the iteration, at an image that cannot be read.
    """
    records = _records(names)
    return DataLoader(
        MapDataset(DatasetFromList(records, copy=False), test_mapper(cfg)),
        batch_size=_TEST_BATCH,
        sampler=InferenceSampler(len(records)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
    )


def test_mapper(cfg: CfgNode) -> TolerantMapper:
    """Return the mapper of test images."""
    mapper = ClassificationMapper(test_transform(cfg), colours=cfg.INPUT.FORMAT)
    return TolerantMapper(mapper, is_train=False)


def _records(names: Sequence[str]) -> Batch:
    return [record for name in names for record in load_classification(name).records]
