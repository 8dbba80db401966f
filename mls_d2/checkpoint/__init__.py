"""Backbone files: writing, reading without running code, converting, loading with proof."""

from mls_d2.checkpoint.convert import Backbone, load_backbone

__all__ = ["Backbone", "load_backbone"]
