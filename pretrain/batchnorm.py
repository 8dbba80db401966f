"""BatchNorm whose batch statistics do not leak the answer: split into parts, and shuffled.

A query and its key that are normalised together with the same other images can be matched by those
statistics alone (MoCo, arXiv 1911.05722, section 3.3). MoCo shuffles the key batch among its
processes; one big GPU does the same to groups within its batch.

Shape legend: N images of this process, W processes, G groups.
"""

import logging
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from mls_d2.core.errors import UserError, nearest

logger = logging.getLogger(__name__)

MODES = ("shuffled", "local", "sync")


class SplitBatchNorm(nn.BatchNorm2d):
    """BatchNorm that normalises each of G equal parts of the batch by its own statistics.

    Part i is what process i of G would hold, so one process trains as G of them do. The running
    statistics are the mean of those that the parts would keep. Evaluation is BatchNorm's.

    Args:
        num_features: channels C of the input ``(N, C, …)``.
        groups: G, which must divide N in training.
        eps: as in BatchNorm.
        momentum: as in BatchNorm.
        affine: as in BatchNorm.

    Raises:
        ValueError: G does not divide N.
    """

    def __init__(
        self,
        num_features: int,
        *,
        groups: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum, affine=affine)
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, …)``."""
        mean, var = self.running_mean, self.running_var
        if not self.training:
            return F.batch_norm(input, mean, var, self.weight, self.bias, eps=self.eps)
        if len(input) % self.groups:
            raise ValueError(f"{self.groups} groups do not divide a batch of {len(input)}")
        assert mean is not None
        assert var is not None
        assert self.momentum is not None
        means, variances = mean.repeat(self.groups, 1), var.repeat(self.groups, 1)
        parts = [
            F.batch_norm(
                part, means[i], variances[i], self.weight, self.bias, True, self.momentum, self.eps
            )
            for i, part in enumerate(input.chunk(self.groups))
        ]
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        mean.copy_(means.mean(dim=0))
        var.copy_(variances.mean(dim=0))
        return torch.cat(parts)

    def _check_input_dim(self, input: Tensor) -> None:
        """Inputs of any number of dimensions are normalised over all but the second."""


def split_batchnorm(module: nn.Module, groups: int) -> nn.Module:
    """Return ``module`` with every BatchNorm replaced by one with the same values and G groups."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        split = SplitBatchNorm(
            module.num_features,
            groups=groups,
            eps=module.eps,
            momentum=module.momentum or 0.1,
            affine=module.affine,
        )
        split.to(next(module.buffers())).load_state_dict(module.state_dict())
        for old, new in zip(module.parameters(), split.parameters(), strict=True):
            new.requires_grad = old.requires_grad
        return split
    for name, child in module.named_children():
        setattr(module, name, split_batchnorm(child, groups))
    return module


class BatchShuffle:
    """MoCo's shuffling: each key is normalised with other images than its query was.

    Every process draws the same permutation of the whole batch from (seed, iteration), so nothing
    but images and keys is exchanged.

    Args:
        seed: of the permutations.
        rank: this process.
        world_size: W.
    """

    def __init__(self, seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.iteration = 0

    def order(self, count: int) -> Tensor:
        """Return the permutation ``(W·N,)`` of this iteration, on the CPU; ``count`` is W·N."""
        generator = torch.Generator().manual_seed((self.seed << 32) + self.iteration)
        return torch.randperm(count, generator=generator)

    def shuffle(self, images: Tensor) -> Tensor:
        """Return this process's ``(N, …)`` of the shuffled whole batch; ``images`` are its own."""
        order = self.order(len(images) * self.world_size).to(images.device, non_blocking=True)
        return self._own(gather(images)[order])

    def restore(self, rows: Tensor) -> Tensor:
        """Return this process's ``(N, d)`` in the order before :meth:`shuffle`."""
        back = self.order(len(rows) * self.world_size).argsort()
        return self._own(gather(rows)[back.to(rows.device, non_blocking=True)])

    def _own(self, whole: Tensor) -> Tensor:
        return whole.chunk(self.world_size)[self.rank]


def gather(rows: Tensor) -> Tensor:
    """Return the rows ``(N, …)`` of all processes in rank order, ``(W·N, …)``, without gradient."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    rows = rows.detach().contiguous()
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


def check_batchnorm(cfg: CfgNode, world_size: int) -> None:
    """Check ``PRETRAIN.BATCH_NORM`` and ``PRETRAIN.BATCH_NORM_GROUPS`` for W processes.

    Raises:
        UserError: an unknown mode, groups that do not divide the images per process, groups with
            "sync", or "sync" among processes without GPUs or in compiled encoders.
    """
    mode, groups = cfg.PRETRAIN.BATCH_NORM, cfg.PRETRAIN.BATCH_NORM_GROUPS
    share = cfg.SOLVER.IMS_PER_BATCH // world_size
    if mode not in MODES:
        raise UserError(
            f"PRETRAIN.BATCH_NORM '{mode}' is unknown; {nearest(mode, MODES)}", code="bad-value"
        )
    if groups < 1 or share % groups:
        raise UserError(
            f"PRETRAIN.BATCH_NORM_GROUPS must divide the {share} images per process, got {groups}",
            code="bad-value",
        )
    if mode == "sync" and groups > 1:
        raise UserError(
            f"PRETRAIN.BATCH_NORM sync takes the whole batch, but BATCH_NORM_GROUPS is {groups}; "
            "set it to 1, or BATCH_NORM to shuffled",
            code="bad-value",
        )
    if mode == "sync" and world_size > 1 and cfg.PRETRAIN.COMPILE:
        raise UserError(
            "PRETRAIN.COMPILE cannot compile the SyncBatchNorm of PRETRAIN.BATCH_NORM sync among "
            "several processes; set COMPILE to False, or BATCH_NORM to shuffled",
            code="bad-value",
        )
    gpus = torch.device(cfg.MODEL.DEVICE).type == "cuda" and torch.cuda.is_available()
    if mode == "sync" and world_size > 1 and not gpus:
        raise UserError(
            "PRETRAIN.BATCH_NORM sync among several processes needs GPUs; choose shuffled",
            code="bad-value",
        )


def set_up_batchnorm(
    method: nn.Module, cfg: CfgNode, *, rank: int, world_size: int
) -> tuple[Any, BatchShuffle | None]:
    """Return ``method`` with the BatchNorm that the config asks for, and the shuffle of its keys.

    Warns if a query is normalised with the same images as its key, for a method whose
    ``contrasts_batches`` is True: it compares the key with those of other batches.
    """
    mode, groups = cfg.PRETRAIN.BATCH_NORM, cfg.PRETRAIN.BATCH_NORM_GROUPS
    norms = (m for m in method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    leaks = getattr(method, "contrasts_batches", True) and any(True for _ in norms)
    if mode == "sync":
        if leaks:
            logger.warning(
                "PRETRAIN.BATCH_NORM sync normalises queries and keys over the same whole batch, "
                "so the statistics can leak the answer (docs/methods.md)"
            )
        whole = nn.SyncBatchNorm.convert_sync_batchnorm(method) if world_size > 1 else method
        return whole, None
    if groups > 1:
        method = split_batchnorm(method, groups)
    if mode == "shuffled" and groups * world_size > 1:
        return method, BatchShuffle(cfg.SEED, rank=rank, world_size=world_size)
    if leaks:
        logger.warning(
            "BatchNorm normalises each query with the same images as its key, so the statistics "
            "can leak the answer: use PRETRAIN.BATCH_NORM shuffled with several processes or "
            "PRETRAIN.BATCH_NORM_GROUPS > 1"
        )
    return method, None
