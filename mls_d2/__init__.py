"""mls_d2: a Detectron2 extension from unlabelled scene images to a measured detector."""

__version__ = "0.1.0"
