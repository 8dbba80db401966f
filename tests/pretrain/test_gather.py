"""The rows of all processes with gradient: two processes take the gradient of one."""

import pytest
import torch

from pretrain.gather import gather_with_gradient
from pretrain.losses import (
    barlow_terms,
    batch_similarities,
    cross_correlation,
    info_nce_from_similarities,
)
from tests.two_processes import BACKENDS, one_and_two


def nt_xent(view1: torch.Tensor, view2: torch.Tensor) -> torch.Tensor:
    return info_nce_from_similarities(*batch_similarities(view1, view2), 0.5)


def barlow(view1: torch.Tensor, view2: torch.Tensor) -> torch.Tensor:
    invariance, redundancy = barlow_terms(cross_correlation(view1, view2))
    return invariance + 0.1 * redundancy


LOSSES = {"nt_xent": nt_xent, "barlow": barlow}


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return views ``(2, 6, 5)`` and a weight ``(3, 5)`` that trains."""
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    return views[0], views[1], weight.requires_grad_()


def loss_of(name: str, rank: int, world_size: int):
    """Return this process's loss, and its gradient."""
    *views, weight = inputs()
    own = [view.chunk(world_size)[rank] for view in views]
    loss = LOSSES[name](*(gather_with_gradient(rows @ weight.T) for rows in own))
    loss.backward()
    return loss.item(), weight.grad


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_processes_have_the_loss_of_one_and_the_mean_of_their_gradients(backend):
    for (loss, gradient), *parts in one_and_two(loss_of, LOSSES, backend).values():
        assert [part[0] for part in parts] == pytest.approx([loss, loss], rel=1e-12)
        # DistributedDataParallel takes the mean over processes.
        torch.testing.assert_close((parts[0][1] + parts[1][1]) / 2, gradient)
        assert not torch.allclose(parts[0][1], gradient)


def test_one_process_gets_its_rows_back():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(rows) is rows
