"""Checkpoints that are never half-written, and resuming from the newest one that can be read."""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from mls_d2.engine.files import atomic_write
from mls_d2.engine.guards import NonFiniteLossError
from mls_d2.errors import UserError

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last_checkpoint"
_UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    KeyError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


class CorruptCheckpointError(UserError):
    """A checkpoint file that is truncated or damaged."""


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, safe against kills, full disks and damaged files.

    Args:
        model: the module to save, possibly wrapped for data parallelism.
        save_dir: where to save to and resume from.
        metadata: plain values stored in every checkpoint under ``"metadata"``.
        checkpointables: objects with ``state_dict()`` and ``load_state_dict()``.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        metadata: dict[str, Any] | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.metadata = metadata or {}

    def save(self, name: str, **extra: Any) -> None:
        """Write ``save_dir/name.pth``, then point ``last_checkpoint`` at it.

        Raises:
            UserError: the folder is full or unwritable.
            NonFiniteLossError: the model holds NaN or infinite values; nothing is written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content: dict[str, Any] = {"model": self.model.state_dict()}
        _refuse_non_finite(content["model"])
        content |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        content |= {"metadata": self.metadata, **extra}
        path = os.path.join(self.save_dir, f"{name}.pth")
        with atomic_write(path) as file:
            torch.save(content, file)
        self.tag_last_checkpoint(os.path.basename(path))
        logger.info("saved %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint in ``save_dir/last_checkpoint``."""
        with atomic_write(os.path.join(self.save_dir, LAST_CHECKPOINT), "w") as file:
            file.write(last_filename_basename)

    def resume(self) -> dict[str, Any] | None:
        """Load the newest checkpoint of ``save_dir`` that can be read, with all its parts.

        Returns:
            What the checkpointables did not take, for example ``{"iteration": 99}``; None where
            there is no checkpoint.

        Raises:
            CorruptCheckpointError: there are checkpoints, but none can be read.
        """
        paths = self.checkpoints()
        for path in paths:
            try:
                rest = self.load(path)
            except CorruptCheckpointError as error:
                logger.warning("%s; trying the one before it", error)
                continue
            logger.info("resumed from %s", path)
            return rest
        if paths:
            raise CorruptCheckpointError(
                f"none of the {len(paths)} checkpoints in '{self.save_dir}' can be read; "
                "remove them to start again from iteration 0"
            )
        return None

    def checkpoints(self) -> list[str]:
        """Return the paths of the checkpoints in ``save_dir``, newest first."""
        names = list_checkpoints(self.save_dir)
        last = os.path.basename(self.get_checkpoint_file()) if self.has_checkpoint() else ""
        # Iterations are padded with zeros, so names sort as numbers do and model_final comes last.
        names.sort(key=lambda name: (name == last, name), reverse=True)
        return [os.path.join(self.save_dir, name) for name in names]

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            return super()._load_file(filename)
        except _UNREADABLE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CorruptCheckpointError(
                f"checkpoint '{filename}' is damaged or truncated ({reason})"
            ) from error


def list_checkpoints(folder: str) -> list[str]:
    """Return the file names of the checkpoints in ``folder``, which may be missing."""
    if not os.path.isdir(folder):
        return []
    names = os.listdir(folder)
    return [name for name in names if name.startswith("model_") and name.endswith(".pth")]


def _refuse_non_finite(state: dict[str, torch.Tensor]) -> None:
    bad = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]
    if bad:
        shown = ", ".join(bad[:5]) + (", …" if len(bad) > 5 else "")
        raise NonFiniteLossError(
            f"{len(bad)} tensors of the model are NaN or infinite ({shown}); this state is not "
            "saved, the last checkpoint is from before. Lower SOLVER.BASE_LR or lengthen the "
            "warm-up"
        )
