"""Batches of labelled images: read, cropped as a recipe says, and stacked by the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset, build_detection_train_loader
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2 as transforms

from mls_d2.data.classification import load_classification
from mls_d2.data.images import BrokenImageError, read_image
from mls_d2.errors import UserError

_TEST_BATCH = 64

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


def _shorter_side(size: int) -> transforms.Transform:
    return transforms.Resize(size, antialias=True)


class ClassificationMapper:
    """Turns a record (see :class:`mls_d2.data.classification_readers.Labelled`) into an input.

    Args:
        transform: of the image, ``(3, H, W)`` uint8 to ``(3, S, S)``.
        colours: ``"RGB"`` or ``"BGR"``.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor], *, colours: str) -> None:
        self._transform, self._colours = transform, colours

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the record with ``image``, ``(3, S, S)`` uint8; with ``error`` where it is broken.

        An error is returned, because a data loader's worker would add its traceback to one raised.
        """
        try:
            pixels = read_image(record["file_name"])
        except BrokenImageError as error:
            return {**record, "error": str(error)}
        if "box" in record:
            left, top, right, bottom = record["box"]
            pixels = pixels[top:bottom, left:right]
        if self._colours == "BGR":
            pixels = pixels[:, :, ::-1]
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        return {**record, "image": self._transform(image).contiguous()}


def build_train_loader(cfg: CfgNode) -> Iterable[Batch]:
    """Return endless batches of this process: all images of ``DATASETS.TRAIN`` in random order.

    Raises:
        UserError: from the iteration, at an image that cannot be read.
    """
    records = _records(cfg.DATASETS.TRAIN)
    loader = build_detection_train_loader(
        records,
        mapper=ClassificationMapper(train_transform(cfg), colours=cfg.INPUT.FORMAT),
        sampler=TrainingSampler(len(records)),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    return _Readable(loader)


def build_test_loader(cfg: CfgNode, names: Sequence[str]) -> Iterable[Batch]:
    """Return batches of this process's share of datasets, each image once, cropped for testing.

    Raises:
        UserError: from the iteration, at an image that cannot be read.
    """
    records = _records(names)
    mapper = ClassificationMapper(test_transform(cfg), colours=cfg.INPUT.FORMAT)
    loader = DataLoader(
        MapDataset(DatasetFromList(records, copy=False), mapper),
        batch_size=_TEST_BATCH,
        sampler=InferenceSampler(len(records)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
    )
    return _Readable(loader)


def _records(names: Sequence[str]) -> Batch:
    return [record for name in names for record in load_classification(name).records]


class _Readable:
    """A loader's batches, or a :class:`UserError` at the first image that cannot be read."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            broken = next((item["error"] for item in batch if "error" in item), None)
            if broken:
                raise UserError(f"{broken}; get that image again")
            yield batch
