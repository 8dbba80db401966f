"""Optimizers of pretraining: SGD, and LARS and LARC for large batches."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params
from torch import Tensor, nn

OPTIMIZERS = ("sgd", "lars", "larc")


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled, tensor by tensor, to the norm of the weights.

    With g the gradient plus the decayed weight: v ← μ v + η ‖w‖ / ‖g‖ · g, w ← w − lr · v. Tensors
    of one dimension (biases, normalisation layers) are not scaled, nor are those whose ‖w‖ or ‖g‖
    is 0.

    Args:
        params: tensors or groups of them, as for every optimizer of torch.
        lr: learning rate (> 0).
        momentum: μ in [0, 1).
        weight_decay: added to the gradient (>= 0); give one-dimensional tensors a group without.
        trust: η (> 0).

    Raises:
        ValueError: a value out of range.

    Source: arXiv 1708.03888, Algorithm 1, with the exclusions of SimCLR and BYOL.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        if lr <= 0 or not 0 <= momentum < 1 or weight_decay < 0 or trust <= 0:
            raise ValueError(
                "LARS needs lr > 0, momentum in [0, 1), weight_decay >= 0 and trust > 0, got "
                f"{lr}, {momentum}, {weight_decay} and {trust}"
            )
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; ``closure`` recomputes the loss first, as for every optimizer of torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._step_group(group, weights)
        return loss

    def _step_group(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        updates = self._updates(group, weights, gradients)
        velocities = [
            self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
            for weight in weights
        ]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, updates)
        torch._foreach_add_(weights, velocities, alpha=-group["lr"])

    def _updates(
        self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]
    ) -> list[Tensor]:
        """Return the gradients with decay, scaled to the size of the weights."""
        updates = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        adapted = [i for i, weight in enumerate(weights) if weight.ndim > 1]
        if adapted:
            chosen = [updates[i] for i in adapted]
            sizes = torch.stack(torch._foreach_norm([weights[i] for i in adapted]))
            slopes = torch.stack(torch._foreach_norm(chosen))
            usable = (sizes > 0) & (slopes > 0)
            ratios = torch.where(usable, group["trust"] * sizes / slopes, torch.ones_like(sizes))
            torch._foreach_mul_(chosen, list(ratios.unbind()))
        return updates


class LARC(LARS):
    """LARS as SwAV has it: without exclusions, and with another denominator.

    With g the gradient and λ the weight decay: v ← μ v + η ‖w‖ / (‖g‖ + λ ‖w‖) · (g + λ w), w ← w −
    lr · v, also for biases and normalisation layers. A tensor whose ‖w‖ or ‖g‖ is 0 gets v ← μ v +
    g instead, without decay. Arguments and errors are those of :class:`LARS`.

    Source: LARC of NVIDIA's apex with ``clip=False``, around SGD, in the code of SwAV (06b1b7c).
    """

    def _updates(
        self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]
    ) -> list[Tensor]:
        decay = group["weight_decay"]
        sizes = torch.stack(torch._foreach_norm(weights))
        slopes = torch.stack(torch._foreach_norm(gradients))
        usable = (sizes > 0) & (slopes > 0)
        ratios = torch.where(usable, group["trust"] * sizes / (slopes + decay * sizes), 1.0)
        decays = torch.where(usable, decay * ratios, 0.0)
        updates = list(torch._foreach_mul(gradients, list(ratios.unbind())))
        torch._foreach_add_(updates, torch._foreach_mul(weights, list(decays.unbind())))
        return updates


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build ``PRETRAIN.OPTIMIZER`` over everything that trains.

    As in Detectron2, ``SOLVER.WEIGHT_DECAY_NORM`` is for normalisation layers and
    ``SOLVER.WEIGHT_DECAY_BIAS``, if it is set, for biases.
    """
    groups = get_default_optimizer_params(
        model,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    optimizer = {"sgd": torch.optim.SGD, "lars": LARS, "larc": LARC}[cfg.PRETRAIN.OPTIMIZER]
    return optimizer(groups, lr=cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM)
