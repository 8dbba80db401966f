"""Backbone files: writing, reading without running code, loading with proof."""
