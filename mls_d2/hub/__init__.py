"""Sharing backbones: what is pushed to the Hugging Face Hub or a folder, pulled and listed."""

from mls_d2.hub.zoo import list_backbones, pull, push

__all__ = ["list_backbones", "pull", "push"]
