"""Errors, files and text: imports neither torch nor Detectron2."""
