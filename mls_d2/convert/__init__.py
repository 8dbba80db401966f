"""Foreign checkpoint layouts to backbone files."""

from mls_d2.convert.convert import ConvertedBackbone, load_backbone

__all__ = ["ConvertedBackbone", "load_backbone"]
