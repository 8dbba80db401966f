"""Self-supervised pretraining of Detectron2 backbones."""
