"""What both training phases share: launch, run folders, guards, checkpoints and hooks."""
