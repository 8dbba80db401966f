"""Datasets: reading images, registration, layout checks and generated scenes."""
