"""Registers the datasets and components of this project, which Detectron2 finds by name."""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.utils.file_io import PathManager

from mls_d2.checkpoint.hub import HubHandler
from mls_d2.data.cityscapes import COLORS
from mls_d2.data.classification import register_classification
from mls_d2.data.dataset_files import datasets_root
from mls_d2.data.datasets import read_through_validators
from mls_d2.data.images import list_images
from mls_d2.modeling.classifier import ImageClassifier
from mls_d2.modeling.dilated_resnet import build_dilated_resnet_backbone
from mls_d2.modeling.encoder_decoder import EncoderDecoder
from mls_d2.modeling.res5_head import Res5ROIHeadsExtraNorm

UNLABELED = "coco_2017_unlabeled"


def register_all() -> None:
    """Register the project's datasets and components with Detectron2; further calls do nothing.

    Every entry point calls it; after that a YAML that names one of the components works from
    Python, from the tools and from a notebook.
    """
    if UNLABELED not in DatasetCatalog.list():
        DatasetCatalog.register(UNLABELED, _load_unlabeled)
        MetadataCatalog.get(UNLABELED).set(evaluator_type="none")
    for split in ("train", "val", "test"):
        metadata = MetadataCatalog.get(f"cityscapes_fine_sem_seg_{split}")
        if not metadata.get("stuff_colors"):  # Detectron2 only has the names.
            metadata.stuff_colors = COLORS.tolist()
    PathManager.register_handler(HubHandler(), allow_override=True)
    register_classification()
    read_through_validators()
    components = (
        (BACKBONE_REGISTRY, build_dilated_resnet_backbone),
        (META_ARCH_REGISTRY, EncoderDecoder),
        (META_ARCH_REGISTRY, ImageClassifier),
        (ROI_HEADS_REGISTRY, Res5ROIHeadsExtraNorm),
    )
    for registry, component in components:
        if component.__name__ not in registry:
            registry.register(component)


def _load_unlabeled() -> list[dict]:
    folder = os.path.join(datasets_root(), "coco", "unlabeled2017")
    return [
        {"file_name": name, "image_id": index} for index, name in enumerate(list_images(folder))
    ]
