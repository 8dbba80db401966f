"""Datasets: reading images and annotations, registration, layout checks."""
