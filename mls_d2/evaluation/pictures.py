"""A picture of what a model finds, beside what is there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib.figure import Figure
from torch import nn

from mls_d2.engine.files import atomic_write

_ROWS = ("ground truth", "detections")


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
    records = _spread(DatasetCatalog.get(name), num_images)
    columns = []
    for record in records:
        image = read_image(record["file_name"], "RGB")
        scale = height / image.shape[0]
        found = _detect(model, mapper(dict(record)))
        found = found[found.scores >= min_score]
        truth = Visualizer(image, metadata, scale, ColorMode.SEGMENTATION)
        drawn = Visualizer(image, metadata, scale, ColorMode.SEGMENTATION)
        columns.append(
            (
                truth.draw_dataset_dict(record).get_image(),
                drawn.draw_instance_predictions(found).get_image(),
            )
        )
    _write_grid(path, columns)


def _spread(records: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    rich = [record for record in records if len(record.get("annotations", ())) >= 2] or records
    positions = np.linspace(0, len(rich) - 1, num=min(number, len(rich))).round().astype(int)
    return [rich[position] for position in positions]


def _detect(model: nn.Module, item: dict[str, Any]) -> Any:
    """Return the instances found in one mapped image, on the CPU."""
    training = model.training
    model.eval()
    with torch.no_grad():
        found = model([item])[0]["instances"].to("cpu")
    model.train(training)
    return found


def _write_grid(path: str, columns: list[tuple[np.ndarray, np.ndarray]]) -> None:
    widths = [column[0].shape[1] for column in columns]
    height = columns[0][0].shape[0]
    figure = Figure(figsize=(sum(widths) / 100, len(_ROWS) * height / 100), dpi=100)
    axes = figure.subplots(
        len(_ROWS), len(columns), squeeze=False, gridspec_kw={"width_ratios": widths}
    )
    for row, title in enumerate(_ROWS):
        for column, images in enumerate(columns):
            axes[row, column].imshow(images[row])
            axes[row, column].set_axis_off()
        axes[row, 0].set_title(title, loc="left", fontsize=10)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.97, wspace=0.01, hspace=0.06)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
