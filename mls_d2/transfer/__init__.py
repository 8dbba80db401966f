"""Fine-tuning and evaluation: detection, segmentation and classification."""
