"""A picture of what a model finds, beside what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib.figure import Figure
from torch import nn

from mls_d2.core.files import atomic_write
from mls_d2.data.cityscapes import IGNORED
from mls_d2.data.segmentation import read_labels

# Height of the title above each row of a grid.
_TITLE_PX = 24


def write_detections(
    path: str,
    model: nn.Module,
    cfg: CfgNode,
    *,
    num_images: int = 4,
    min_score: float = 0.4,
    height: int = 360,
) -> None:
    """Write a PNG: ground truth above, detections below, for some test images.

    The images are spread evenly over those of the first test dataset with at least two objects, so
    every model of a comparison is shown on the same ones.

    Args:
        path: the file to write.
        model: a Detectron2 detector.
        cfg: its config; names the dataset and the size of the input.
        num_images: columns.
        min_score: detections below it are not drawn, in [0, 1].
        height: of each image in the picture, in pixels.
    """
    name = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(name)
    mapper = DatasetMapper(cfg, is_train=False)
    records = spread(_rich(DatasetCatalog.get(name)), num_images)
    columns = []
    for record in records:
        image = read_image(record["file_name"], "RGB")
        scale = height / image.shape[0]
        found = _run(model, mapper(dict(record)))["instances"].to("cpu")
        found = found[found.scores >= min_score]
        truth = Visualizer(image, metadata, scale, ColorMode.SEGMENTATION)
        drawn = Visualizer(image, metadata, scale, ColorMode.SEGMENTATION)
        columns.append(
            (
                truth.draw_dataset_dict(record).get_image(),
                drawn.draw_instance_predictions(found).get_image(),
            )
        )
    write_grid(path, columns, ("ground truth", "detections"))


def write_segmentations(
    path: str,
    model: nn.Module,
    mapper: Callable[[dict[str, Any]], Any],
    records: Sequence[dict[str, Any]],
    colors: np.ndarray,
    *,
    num_images: int = 3,
    height: int = 300,
) -> None:
    """Write a PNG: image, ground truth and prediction below one another, for some test images.

    Args:
        path: the file to write.
        model: a Detectron2 model for semantic segmentation.
        mapper: makes the model's input of a record.
        records: of a dataset, with ``file_name`` and ``sem_seg_file_name``.
        colors: ``(K, 3)`` uint8, RGB by class; what has none is black.
        num_images: columns; they are spread evenly over the dataset.
        height: of each image in the picture, in pixels.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = colors
    columns = []
    for record in spread(records, num_images):
        labels = read_labels(record["sem_seg_file_name"], len(colors), IGNORED)
        predicted = _run(model, mapper(record))["sem_seg"].argmax(0).cpu().numpy()
        images = (read_image(record["file_name"], "RGB"), palette[labels], palette[predicted])
        size = (round(labels.shape[1] * height / labels.shape[0]), height)
        columns.append([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])
    write_grid(path, columns, ("image", "ground truth", "prediction"))


def _rich(records: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    return [record for record in records if len(record.get("annotations", ())) >= 2] or records


def spread(records: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Return up to ``number`` records, spread evenly."""
    positions = np.linspace(0, len(records) - 1, num=min(number, len(records))).round().astype(int)
    return [records[position] for position in positions]


def _run(model: nn.Module, item: dict[str, Any]) -> dict[str, Any]:
    """Return what a model makes of one mapped image in evaluation mode."""
    training = model.training
    model.eval()
    with torch.no_grad():
        output = model([item])[0]
    model.train(training)
    return output


def write_grid(path: str, columns: Sequence[Sequence[np.ndarray]], titles: Sequence[str]) -> None:
    """Write a PNG of images of one height, each column with one for every title.

    Args:
        path: the file to write.
        columns: ``(H, W, 3)`` uint8, RGB, in the order of the titles.
        titles: of the rows.
    """
    widths = [column[0].shape[1] for column in columns]
    height = columns[0][0].shape[0]
    row_height = height + _TITLE_PX
    figure = Figure(figsize=(sum(widths) / 100, len(titles) * row_height / 100), dpi=100)
    axes = figure.subplots(
        len(titles), len(columns), squeeze=False, gridspec_kw={"width_ratios": widths}
    )
    for row, title in enumerate(titles):
        for column, images in enumerate(columns):
            axes[row, column].imshow(images[row])
            axes[row, column].set_axis_off()
        axes[row, 0].set_title(title, loc="left", fontsize=10)
    top = 1 - _TITLE_PX / (len(titles) * row_height)
    figure.subplots_adjust(0.005, 0, 0.995, top, wspace=0.01, hspace=_TITLE_PX / height)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
