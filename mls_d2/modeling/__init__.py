"""What Detectron2 lacks: heads and operations of the transfer suite."""
