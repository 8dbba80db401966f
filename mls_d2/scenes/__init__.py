"""Procedural scenes of streets, parks and beaches, in the layouts of COCO, VOC and Cityscapes."""

from mls_d2.scenes.generate import generate
from mls_d2.scenes.marker import SceneParams, read_marker

__all__ = ["SceneParams", "generate", "read_marker"]
