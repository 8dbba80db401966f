"""The one place where this project registers what Detectron2 finds by name."""

from __future__ import annotations

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from mls_d2.data.classification import register_classification
from mls_d2.data.images import list_images
from mls_d2.modeling.classifier import ImageClassifier

UNLABELED = "coco_2017_unlabeled"


def register_all() -> None:
    """Register the project's datasets and components with Detectron2, once however often called.

    Every entry point calls it once; after that a YAML that names one of our components works from
    Python, from the tools and from a notebook.
    """
    if UNLABELED not in DatasetCatalog.list():
        DatasetCatalog.register(UNLABELED, _load_unlabeled)
        MetadataCatalog.get(UNLABELED).set(evaluator_type="none")
    register_classification()
    if "ImageClassifier" not in META_ARCH_REGISTRY:
        META_ARCH_REGISTRY.register(ImageClassifier)


def _load_unlabeled() -> list[dict]:
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    folder = os.path.join(root, "coco", "unlabeled2017")
    return [
        {"file_name": name, "image_id": index} for index, name in enumerate(list_images(folder))
    ]
