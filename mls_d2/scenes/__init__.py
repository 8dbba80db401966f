"""Scenes of streets, parks, rooms and beaches, in the layouts of COCO, VOC and Cityscapes.

Other code imports from here only.
"""

from mls_d2.scenes.generate import generate
from mls_d2.scenes.marker import MARKER_NAME, SceneParams, read_marker, write_marker

__all__ = ["MARKER_NAME", "SceneParams", "generate", "read_marker", "write_marker"]
