"""Checkpoints that are never half-written, and resuming from the newest one that can be read."""

import contextlib
import logging
import os
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from mls_d2.checkpoint.reading import read_object
from mls_d2.core.errors import UserError
from mls_d2.core.files import atomic_write, sha256_of, trim_metrics
from mls_d2.run.loop import NonFiniteLossError
from mls_d2.run.progress import METRICS_FILE

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last_checkpoint"
# Of the file next to each checkpoint, in the format of `sha256sum`.
CHECKSUM_SUFFIX = ".sha256"


class CorruptCheckpointError(UserError):
    """A checkpoint file that is truncated or damaged."""

    code = "damaged-file"


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, safe against kills, full disks and damaged files.

    Each file has a checksum file, which is compared before loading; files without one, of older
    versions, are loaded without that check. ``metadata`` are plain values that every checkpoint
    stores under ``"metadata"``; ``checkpointables`` have a ``state_dict()``.
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
        """Write ``save_dir/name.pth`` and its checksum, then point ``last_checkpoint`` at it.

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
        # A kill between two of these lines leaves a file without a checksum, or none.
        _remove(path + CHECKSUM_SUFFIX)
        with atomic_write(path) as file:
            torch.save(content, file)
        with atomic_write(path + CHECKSUM_SUFFIX, "w") as file:
            file.write(f"{sha256_of(path)}  {os.path.basename(path)}\n")
        self.tag_last_checkpoint(os.path.basename(path))
        logger.info("saved %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint in ``save_dir/last_checkpoint``."""
        with atomic_write(os.path.join(self.save_dir, LAST_CHECKPOINT), "w") as file:
            file.write(last_filename_basename)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a local file.

        Not by Detectron2's method: on its main branch that takes what follows a ``?`` in a path
        for a query, and asserts when it is called again after an exception.
        """
        return Checkpointer.load(self, path, *args, **kwargs)

    def resume(self) -> dict[str, Any] | None:
        """Load the newest intact checkpoint of ``save_dir``, with all its parts (collective).

        Returns:
            The rest, for example ``{"iteration": 99}``; None without a checkpoint.

        Raises:
            CorruptCheckpointError: there are checkpoints, but none can be read.
            UserError: a process does not have the files that the main process has.
        """
        paths = comm.all_gather(self.checkpoints())[0]
        for path in paths:
            _check_shared(path)
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

    def first_iteration(self) -> int:
        """Resume, remove the metrics of steps that will be repeated, and return the next iteration.

        Collective; raises what :meth:`resume` does.
        """
        start = (self.resume() or {}).get("iteration", -1) + 1
        if comm.is_main_process():
            trim_metrics(os.path.join(self.save_dir, METRICS_FILE), start)
        return start

    def checkpoints(self) -> list[str]:
        """Return the paths of the checkpoints in ``save_dir``, newest first."""
        names = list_checkpoints(self.save_dir)
        last = os.path.basename(self.get_checkpoint_file()) if self.has_checkpoint() else ""
        # Iterations are padded with zeros, so names sort as numbers do and model_final comes last.
        names.sort(key=lambda name: (name == last, name), reverse=True)
        return [os.path.join(self.save_dir, name) for name in names]

    def prune(self, iteration: int, *, keep: int, permanent_period: int = 0) -> None:
        """Remove all but the newest checkpoints up to an iteration, with their checksums.

        Args:
            iteration: of the checkpoint just written. Later ones, which are damaged files that a
                resume has skipped, are neither counted nor removed.
            keep: how many stay (>= 1), besides ``model_final``.
            permanent_period: in iterations; checkpoints at its multiples stay, too; 0 for none.
        """
        numbered = ((iteration_of(name), name) for name in list_checkpoints(self.save_dir))
        removable = [
            (number, name)
            for number, name in numbered
            if number is not None
            and number <= iteration
            and not (permanent_period and is_due(number, permanent_period))
        ]
        for _, name in sorted(removable, reverse=True)[keep:]:
            path = os.path.join(self.save_dir, name)
            _remove(path)
            _remove(path + CHECKSUM_SUFFIX)

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read tensors and plain values, never by Detectron2's pickle."""
        _check_sum(filename)
        try:
            content = read_object(filename)
        except UserError as error:
            raise CorruptCheckpointError(f"checkpoint {error}") from error
        if not isinstance(content, dict) or "model" not in content:
            raise CorruptCheckpointError(f"'{filename}' is not a checkpoint: it has no 'model'")
        return content


def list_checkpoints(folder: str) -> list[str]:
    """Return the file names of the checkpoints in ``folder``, which may be missing."""
    if not os.path.isdir(folder):
        return []
    names = os.listdir(folder)
    return [name for name in names if name.startswith("model_") and name.endswith(".pth")]


def iteration_of(name: str) -> int | None:
    """Return the iteration in a checkpoint's file name; None for ``model_final.pth`` and others."""
    digits = name.removeprefix("model_").removesuffix(".pth")
    return int(digits) if digits.isdecimal() else None


def is_due(iteration: int, period: int) -> bool:
    """Whether ``iteration``, counted from 0, is the last of a period."""
    return (iteration + 1) % period == 0


def _check_sum(path: str) -> None:
    try:
        with open(path + CHECKSUM_SUFFIX, encoding="utf-8") as file:
            expected = file.read(64)
    except FileNotFoundError:
        return
    found = sha256_of(path)
    if found != expected:
        raise CorruptCheckpointError(
            f"checkpoint '{path}' is damaged or truncated (sha256 {found[:12]}…, "
            f"when it was written {expected[:12]}…)"
        )


def _check_shared(path: str) -> None:
    seen = comm.all_gather(os.path.isfile(path))
    blind = [rank for rank, sees in enumerate(seen) if not sees]
    if blind:
        raise UserError(
            f"process 0 resumes from '{path}', which processes {blind} do not find; "
            "OUTPUT_DIR must be a folder that all machines share",
            code="missing-file",
        )


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


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
            "saved, and the last checkpoint is from before. Lower SOLVER.BASE_LR or lengthen the "
            "warm-up"
        )
