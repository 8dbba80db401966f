"""Warnings of collapse and divergence, from the metrics of a run."""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from detectron2.engine import HookBase

logger = logging.getLogger(__name__)

Scalars = Mapping[str, float]

# Share of the run for which a condition must hold.
_PATIENCE = 0.1
# Evenly spread features have 1 (SimSiam); healthy quick runs stay above 0.4, a collapsed one falls.
_LEAST_SPREAD = 0.2
# One direction; healthy quick runs fall to 2 or 3 when the dictionary fills, and rise from there.
_LEAST_RANK = 1.5
# As for features; of the embeddings of methods that contrast nothing.
_LEAST_EMBEDDING_SPREAD = 0.1
# Of the rows that could have been picked; with this few, nearly all images have the same labels.
_LEAST_LABEL_SPREAD = 0.05
# Loss at chance level, log(candidates), less rounding of the mean over a log period.
_CHANCE = 0.995
# What should fall in the long run: losses of predictions rise as there is more to predict.
_FALLING = (
    "loss_nce",
    "loss_ml",
    "loss_dense",
    "loss_knn",
    "loss_invariance",
    "loss_variance",
    "loss_swav",
)
# Windows of a tenth of the run over which all losses must have risen, each by this share.
_WINDOWS, _RISE = 3, 0.003


@dataclass(frozen=True)
class Check:
    """One thing that can go wrong."""

    holds: Callable[[Scalars], bool]  # whether an entry of the metrics shows it
    means: str  # what it means, and what to change
    shows: tuple[str, ...]  # the scalars to name in the warning


def checks(candidates: int | None) -> dict[str, Check]:
    """Return the checks of single entries, by kind; ``candidates`` as in :class:`Monitors`."""
    chance = math.log(candidates) if candidates else math.inf
    return {
        "chance level": Check(
            lambda row: row.get("loss_nce", 0.0) >= _CHANCE * chance,
            f"the positive is not found among {candidates} candidates (log({candidates}) = "
            f"{chance:.2f}). Lower SOLVER.BASE_LR or raise PRETRAIN.WARMUP_EPOCHS; a small network "
            "needs MOCO.PROJECTOR_NORM BN",
            ("loss_nce",),
        ),
        "collapse of the features": Check(
            lambda row: row.get("feature_std", 1.0) < _LEAST_SPREAD,
            "all images get nearly the same feature. Go back to a checkpoint from before, lower "
            "SOLVER.BASE_LR, raise MOCO.MOMENTUM; with MLS let InfoNCE learn alone for longer "
            "(MLS.WARMUP) or lower MLS.LAMBDA",
            ("feature_std",),
        ),
        "collapse of the embeddings": Check(
            lambda row: row.get("embedding_std", 1.0) < _LEAST_EMBEDDING_SPREAD,
            "all images get nearly the same embedding: the loss is small and nothing is "
            "learned. Go back to a checkpoint from before, lower SOLVER.BASE_LR, raise "
            "PRETRAIN.WARMUP_EPOCHS and, with a momentum encoder, MOCO.MOMENTUM",
            ("embedding_std",),
        ),
        "collapse of the dictionary": Check(
            lambda row: row.get("dictionary_rank", math.inf) < _LEAST_RANK,
            "its rows are nearly parallel, so that they carry no information on images. Raise "
            "PRETRAIN.WARMUP_EPOCHS or MOCO.MOMENTUM, lower SOLVER.BASE_LR; do not add the "
            "multi-label loss before the rank has risen (MLS.WARMUP)",
            ("dictionary_rank",),
        ),
        "the same pseudo-labels for all": Check(
            lambda row: row.get("label_spread", 1.0) < _LEAST_LABEL_SPREAD,
            "all images of a batch select the same few rows of the dictionary. "
            "Lower MLS.K, or let InfoNCE learn alone for longer (MLS.WARMUP)",
            ("label_spread", "label_similarity"),
        ),
        "the same prototype for all": Check(
            lambda row: row.get("prototype_spread", 1.0) < _LEAST_LABEL_SPREAD,
            "the images of a batch have the same few prototypes, which makes the loss small and "
            "teaches nothing. Lower SOLVER.BASE_LR or raise PRETRAIN.WARMUP_EPOCHS; with DINO "
            "lower DINO.CENTRE_MOMENTUM, and a small network needs DINO.HEAD_NORM BN",
            ("prototype_spread",),
        ),
    }


class Monitors(HookBase):
    """Warns of collapse and divergence, once per kind until the condition ends.

    It reads the entries of the metrics, so it costs no transfer from the device.

    Args:
        candidates: among how many ``loss_nce`` looks for the positive (D + 1 with a dictionary);
            None for a method that contrasts nothing.
        log_period: iterations between two entries.
        max_iter: length of the run.
        metrics_file: entries of an earlier part of the run; may be missing.
    """

    def __init__(
        self, *, candidates: int | None, log_period: int, max_iter: int, metrics_file: str
    ) -> None:
        self._checks, self._log_period = checks(candidates), log_period
        entries = max(1, round(_PATIENCE * max_iter / log_period))
        self._patience = max(3, entries)
        self._counts = dict.fromkeys(self._checks, 0)
        self._losses: dict[str, list[float]] = {name: [] for name in _FALLING}
        self._rising = False
        for iteration, row in _read(metrics_file):
            self.observe(iteration, row)

    def after_step(self) -> None:
        """Check the entry of this step, if there is one."""
        if (self.trainer.iter + 1) % self._log_period == 0:
            now, latest = self.trainer.iter, self.trainer.storage.latest()
            row = {name: value for name, (value, when) in latest.items() if when == now}
            for message in self.observe(now, row):
                logger.warning(message)

    def observe(self, iteration: int, row: Scalars) -> list[str]:
        """Add one entry of the metrics and return the warnings that it triggers, usually none."""
        messages = []
        for kind, check in self._checks.items():
            self._counts[kind] = self._counts[kind] + 1 if check.holds(row) else 0
            if self._counts[kind] == self._patience:
                since = max(0, iteration - (self._patience - 1) * self._log_period)
                shown = ", ".join(
                    f"{name} = {row[name]:.4g}" for name in check.shows if name in row
                )
                messages.append(f"{kind} since iteration {since}: {shown}; {check.means}")
        for name, values in self._losses.items():
            if name in row:
                values.append(row[name])
        rising = self._all_rise()
        if rising and not self._rising:
            messages.append(
                f"all losses have been rising for {_WINDOWS * self._patience} entries: the "
                "instability of the paper's section 3.3, or too high a learning rate. Lower "
                "SOLVER.BASE_LR or MLS.LAMBDA, or let InfoNCE learn alone for longer (MLS.WARMUP)"
            )
        self._rising = rising
        return messages

    def _all_rise(self) -> bool:
        """Whether every loss rose from window to window, the windows a tenth of the run long."""
        known = [values for values in self._losses.values() if values]
        return bool(known) and all(self._rises(values) for values in known)

    def _rises(self, values: list[float]) -> bool:
        length = self._patience
        if len(values) < (_WINDOWS + 1) * length:
            return False
        recent = values[-(_WINDOWS + 1) * length :]
        means = [sum(recent[i : i + length]) / length for i in range(0, len(recent), length)]
        return all(b > a * (1 + _RISE) for a, b in zip(means, means[1:], strict=False))


def _read(path: str) -> list[tuple[int, Scalars]]:
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(row["iteration"], row) for row in rows]
