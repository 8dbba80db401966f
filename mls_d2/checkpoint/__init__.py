"""Backbone files: writing, reading without running code from them, loading with proof."""
