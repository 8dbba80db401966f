"""Foreign checkpoint layouts to backbone files."""

from mls_d2.convert.convert import Backbone, load_backbone

__all__ = ["Backbone", "load_backbone"]
