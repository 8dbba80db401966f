"""The rows of all processes, with the gradient that each process has a share in."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.batchnorm import gather


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        return gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every process's loss depends on these rows.
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.count
        return gradient[first : first + ctx.count]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Return the rows ``(N, …)`` of all W processes in rank order, ``(W·N, …)``, with gradient.

    A process receives the sum of all processes' gradients with respect to its rows. Where each
    takes the loss of the whole batch and DistributedDataParallel averages over processes, weights
    get the gradient of that loss, as one process would compute it. One process gets ``rows`` back.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    return _Gather.apply(rows)
