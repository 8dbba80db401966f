"""Pictures of what a model predicts: over one image, and as grids of test images with the truth."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib.figure import Figure
from torch import nn

from mls_d2.core.errors import UserError
from mls_d2.core.files import atomic_write
from mls_d2.data.cityscapes import IGNORED
from mls_d2.data.dataset_files import evenly_spaced
from mls_d2.data.detection import DetectionMapper
from mls_d2.data.images import read_image
from mls_d2.data.segmentation_mapper import read_labels

Mapper = Callable[[dict[str, Any]], dict[str, Any] | None]
"""From a record to the model's input."""

_OPACITY = 0.6
_MIN_SCORE = 0.4
_MIN_HEIGHT, _MAX_WIDTH = 480, 4096
_TITLE_PX = 24  # above each row of a grid
_COLUMNS = 6
_LINE = 26  # letters of a line below an image


class BoundedVisualizer(Visualizer):
    """Detectron2's, with colours kept in [0, 1]: Python 3.10 rounds lightened ones above 1."""

    def _change_color_brightness(self, color: Any, brightness_factor: float) -> tuple[float, ...]:
        changed = super()._change_color_brightness(color, brightness_factor)
        return tuple(min(max(value, 0.0), 1.0) for value in changed)


def draw_output(
    image: np.ndarray, output: Mapping[str, Any], metadata: Metadata, *, min_score: float
) -> np.ndarray:
    """Draw what a Detectron2 model returned for one image.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        output: with ``instances``, in pixels of ``image``, or ``sem_seg``, ``(K, H, W)`` scores.
        metadata: of the dataset that names the classes.
        min_score: instances below it are not drawn, in [0, 1].

    Returns:
        ``(H', W', 3)`` uint8, RGB: for instances enlarged to a height of 480 pixels, so that their
        names are readable, but not beyond 4096 pixels wide; of the image's size for ``sem_seg``.

    Raises:
        UserError: the model returned neither.
    """
    if "instances" in output:
        scale = max(1.0, min(_MIN_HEIGHT / image.shape[0], _MAX_WIDTH / image.shape[1]))
        return _draw_instances(image, output, metadata, scale, min_score)
    if "sem_seg" in output:
        labels = output["sem_seg"].argmax(0).cpu().numpy()
        return overlay(image, labels, _palette(metadata, len(output["sem_seg"])))
    raise UserError(
        f"this model returns {', '.join(output) or 'nothing'}; instances and sem_seg can be drawn",
        code="bad-value",
    )


def overlay(image: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Lay each pixel's class over an image as a colour.

    ``image`` is ``(H, W, 3)`` uint8, RGB; ``labels`` ``(H, W)`` in [0, K); ``palette`` ``(K, 3)``.
    """
    return (image * (1 - _OPACITY) + palette[labels] * _OPACITY).round().astype(np.uint8)


def write_detections(
    path: str, model: nn.Module, cfg: CfgNode, *, num_images: int = 4, height: int = 360
) -> None:
    """Write a PNG: ground truth above, detections below, for some test images.

    The ``num_images`` columns are spread evenly over the images of the first test dataset with at
    least two objects, so every model of a comparison is shown on the same ones. Each image is
    ``height`` pixels high. Detections with a score of at least 0.4 are drawn, and the best one of
    each image whatever its score: after a short schedule few scores reach 0.4.
    """
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    mapper = DetectionMapper(cfg, is_train=False)
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    rich = [record for record in records if len(record.get("annotations", ())) >= 2] or records
    columns = []
    for record in evenly_spaced(rich, num_images):
        image = read_image(record["file_name"])
        scale = height / image.shape[0]
        output = _run(model, [mapper(dict(record))])[0]
        truth = BoundedVisualizer(image, metadata, scale, ColorMode.SEGMENTATION)
        best = max(output["instances"].scores.tolist(), default=1.0)
        found = _draw_instances(image, output, metadata, scale, min(_MIN_SCORE, best))
        columns.append((truth.draw_dataset_dict(record).get_image(), found))
    write_grid(path, columns, ("ground truth", "detections"))


def write_segmentations(
    path: str,
    model: nn.Module,
    mapper: Mapper,
    records: Sequence[dict[str, Any]],
    colors: np.ndarray,
    *,
    num_images: int = 3,
    height: int = 300,
) -> None:
    """Write a PNG: image, ground truth and prediction below one another, for some test images.

    The ``num_images`` columns, ``height`` pixels per image, are spread evenly over the records,
    which have ``file_name`` and ``sem_seg_file_name``. ``colors`` are ``(K, 3)`` uint8, RGB, by
    class; other labels are black.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = colors
    columns = []
    for record in evenly_spaced(records, num_images):
        labels = read_labels(record["sem_seg_file_name"], len(colors), IGNORED)
        predicted = _run(model, [mapper(record)])[0]["sem_seg"].argmax(0).cpu().numpy()
        images = (read_image(record["file_name"]), palette[labels], palette[predicted])
        size = (round(labels.shape[1] * height / labels.shape[0]), height)
        columns.append([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])
    write_grid(path, columns, ("image", "ground truth", "prediction"))


def write_classifications(
    path: str,
    model: nn.Module,
    records: Sequence[dict[str, Any]],
    mapper: Mapper,
    names: Sequence[str],
    colours: str,
    *,
    num_images: int = 12,
) -> None:
    """Write a PNG of some test images, as the model gets them, with their classes.

    Below each are all of its classes, and as many of the best classes of ``model``, an
    :class:`mls_d2.modeling.classifier.ImageClassifier`: the right ones in green and the wrong ones
    in red. At most ``num_images`` are spread evenly over the dataset; ``colours`` are those of the
    input, "RGB" or "BGR".
    """
    mapped = [mapper(record) for record in evenly_spaced(records, num_images)]
    inputs = [item for item in mapped if item is not None]
    texts = []
    for item, output in zip(inputs, _run(model, inputs), strict=True):
        truth, found = truth_and_found(output["scores"].cpu(), item["classes"], item["difficult"])
        texts.append(captions(truth, found, {*item["classes"], *item["difficult"]}, names))
    rows, cell = -(-len(inputs) // _COLUMNS), 2.0  # inches
    high = cell + 0.16 * max(map(len, texts), default=0)
    width, height = cell * _COLUMNS, high * rows
    figure = Figure(figsize=(width, height), dpi=100)
    for number, (item, lines) in enumerate(zip(inputs, texts, strict=True)):
        row, column = divmod(number, _COLUMNS)
        left, top = cell * column + 0.05, height - high * row - 0.05
        side = cell - 0.1
        axis = figure.add_axes((left / width, (top - side) / height, side / width, side / height))
        axis.set_axis_off()
        image = item["image"] if colours == "RGB" else item["image"].flip(0)
        axis.imshow(image.permute(1, 2, 0).numpy())
        for place, (text, colour) in enumerate(lines):
            below = (top - side - 0.02 - 0.15 * place) / height
            figure.text(left / width, below, text, color=colour, fontsize=8, va="top")
    _save(figure, path)


def captions(
    truth: Sequence[int], found: Sequence[int], right: AbstractSet[int], names: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the lines below an image, each with its colour; no class is left out.

    ``truth`` are the classes that it shows, ``found`` those that the model found, of which those in
    ``right`` count as right.
    """
    lines = []
    for word, classes, colour in (
        ("is", truth, "black"),
        ("right", [one for one in found if one in right], "green"),
        ("wrong", [one for one in found if one not in right], "firebrick"),
    ):
        text = ", ".join(names[one] for one in classes)
        if text or word == "is":
            wrapped = textwrap.wrap(f"{word}: {text or 'none of them'}", _LINE)
            lines += [(line, colour) for line in wrapped]
    return lines


def truth_and_found(
    scores: torch.Tensor, classes: Sequence[int], difficult: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the classes that an image shows, and as many with the highest scores ``(C,)``.

    For an image that shows nothing else, these are its difficult ones.
    """
    truth = sorted(classes) or sorted(difficult)
    return truth, sorted(scores.topk(max(len(truth), 1)).indices.tolist())


def write_grid(path: str, columns: Sequence[Sequence[np.ndarray]], titles: Sequence[str]) -> None:
    """Write a PNG of images of one height, ``(H, W, 3)`` uint8, RGB: a row for every title."""
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
    _save(figure, path)


def _save(figure: Figure, path: str) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def _run(model: nn.Module, inputs: list[Any]) -> list[dict[str, Any]]:
    """Return the model's outputs in evaluation mode."""
    training = model.training
    model.eval()
    with torch.no_grad():
        outputs = model(inputs)
    model.train(training)
    return outputs


def _draw_instances(
    image: np.ndarray, output: Mapping[str, Any], metadata: Metadata, scale: float, score: float
) -> np.ndarray:
    found = output["instances"].to("cpu")
    found = found[found.scores >= score]
    drawn = BoundedVisualizer(image, metadata, scale, ColorMode.SEGMENTATION)
    return np.ascontiguousarray(drawn.draw_instance_predictions(found).get_image())


def _palette(metadata: Metadata, num_classes: int) -> np.ndarray:
    colors = metadata.get("stuff_colors")
    if colors is not None and len(colors) >= num_classes:
        return np.asarray(colors[:num_classes])
    spread = colormap(rgb=True)
    return spread[np.arange(num_classes) % len(spread)]
