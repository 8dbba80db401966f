"""Running a fine-tuned model on any images, and drawing its predictions."""

import logging
import os
from collections.abc import Iterable, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from tqdm import tqdm

from mls_d2.checkpoint.detector import load_detector
from mls_d2.core.errors import UserError
from mls_d2.core.files import check_writable, write_image
from mls_d2.data.detection import UnreadableImageError
from mls_d2.data.images import BrokenImageError, list_images, read_image
from mls_d2.evaluation.pictures import draw_output
from mls_d2.run.environment import resolve_device
from mls_d2.run.registration import register_all
from mls_d2.transfer.tasks import task_of

logger = logging.getLogger(__name__)


def run_demo(
    cfg: CfgNode, inputs: Sequence[str], folder: str, *, min_score: float
) -> tuple[list[str], list[str]]:
    """Draw a model's predictions on images, each into a PNG of the image's name.

    Args:
        cfg: of the model; ``MODEL.WEIGHTS`` is a checkpoint of all of it.
        inputs: image files, and folders of them.
        folder: to write to; created if it is missing.
        min_score: detections below it are not drawn, in [0, 1].

    Returns:
        The files written, and one message for each image that could not be read.

    Raises:
        UserError: bad config or weights, no images, a folder that cannot be written to or that
            images are taken from, or a model whose output cannot be drawn.
    """
    if not 0 <= min_score <= 1:
        raise UserError(f"the smallest score must be in [0, 1], got {min_score}", code="bad-option")
    paths = [
        file for path in inputs for file in (list_images(path) if os.path.isdir(path) else [path])
    ]
    _check_apart(folder, inputs, paths)
    check_writable(folder)
    register_all()
    cfg = cfg.clone()
    resolve_device(cfg)
    task = task_of(cfg)
    model = build_model(cfg)
    load_detector(model, cfg.MODEL.WEIGHTS)
    model.eval()
    mapper = task.test_mapper(cfg)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "__unused")
    written: list[str] = []
    problems: list[str] = []
    for path in tqdm(paths, desc="images", unit="img", disable=len(paths) == 1):
        try:
            image = read_image(path)
            height, width = image.shape[:2]
            item = mapper({"file_name": path, "height": height, "width": width})
        except (BrokenImageError, UnreadableImageError) as error:
            problems.append(str(error))
            continue
        with torch.no_grad():
            output = model([item])[0]
        drawn = draw_output(image, output, metadata, min_score=min_score)
        target = _free_name(folder, path, written)
        write_image(target, drawn)
        written.append(target)
    return written, problems


def _check_apart(folder: str, inputs: Iterable[str], paths: Iterable[str]) -> None:
    """Refuse to overwrite inputs, and to write where the next run would read drawings."""
    real = os.path.realpath(folder)
    for path in filter(os.path.isdir, inputs):
        if os.path.commonpath([os.path.realpath(path), real]) == os.path.realpath(path):
            raise UserError(
                f"the output folder '{folder}' lies in the input folder '{path}': drawings would "
                "become inputs; choose another folder",
                code="bad-option",
            )
    for path in paths:
        # Neither a link nor its target may be overwritten.
        folders = os.path.realpath(os.path.dirname(path)), os.path.dirname(os.path.realpath(path))
        if real in folders:
            raise UserError(
                f"the output folder '{folder}' holds the input '{path}', which a drawing might "
                "replace; choose another folder",
                code="bad-option",
            )


def _free_name(folder: str, path: str, taken: Sequence[str]) -> str:
    """Return a path in ``folder`` that is not in ``taken``."""
    stem = os.path.splitext(os.path.basename(path))[0]
    name, number = os.path.join(folder, f"{stem}.png"), 1
    while name in taken:
        number += 1
        name = os.path.join(folder, f"{stem}-{number}.png")
    return name
