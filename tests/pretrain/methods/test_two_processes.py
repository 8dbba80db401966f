"""Two processes take the step of one with the whole batch: losses, gradients, buffers."""

import dataclasses

import pytest
import torch

from pretrain.batch import Batch
from pretrain.batchnorm import gather
from pretrain.gather import gather_with_gradient
from pretrain.losses import (
    barlow_terms,
    batch_similarities,
    cross_correlation,
    info_nce_from_similarities,
)
from tests.pretrain.methods.tiny import (
    PYRAMIDS,
    VIEWS,
    disturb,
    make_method,
    scene_batch,
    window_batch,
)
from tests.two_processes import BACKENDS, one_and_two

OPTIONS = {
    "vicreg": {},
    "swav": {"queue_size": 4, "queue_start": 0.0},
    "dino": {},
    "mocov3": {},
    "pixpro": {},
    "slotcon": {"num_prototypes": 3},
    "resim": {"c3_images": 2},
    "setsim": {},
    "lewel": {},
    "self_emd": {},
    "soco": {},
    "orl": {},
}


def own_part(batch: Batch, rank: int, world_size: int) -> Batch:
    """Return a process's share of the four images."""
    own = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
    return dataclasses.replace(
        batch,
        views=[view[own] for view in batch.views],
        rectangles=batch.rectangles[:, own],
        flips=batch.flips[:, own],
        image_sizes=batch.image_sizes[own],
        extras={name: values[own] for name, values in batch.extras.items()},
    )


def two_steps(name: str, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """Return loss and gradients of a second step, and the buffers after it, by name."""
    torch.manual_seed(0)
    # BatchNorm takes its running statistics: those of a batch are a process's own.
    method = make_method(name, **OPTIONS[name]).eval()
    disturb(method)
    side = 64 if name in PYRAMIDS else 3
    count = VIEWS.get(name, 2)
    batches = [window_batch() if name == "resim" else scene_batch(side, count) for _ in range(2)]
    for step, batch in enumerate(batches):
        method.before_step(step)
        method.zero_grad()
        output = method(own_part(batch, rank, world_size))
        loss = torch.stack(list(output.weighted().values())).sum()
        loss.backward()
        method.enqueue({table: gather(rows) for table, rows in output.keys.items()})
    gradients = {key: p.grad for key, p in method.named_parameters() if p.grad is not None}
    return {"loss": loss.detach()} | gradients | dict(method.named_buffers())


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


def loss_of(name: str, rank: int = 0, world_size: int = 1):
    """Return this process's loss, and its gradient."""
    *views, weight = inputs()
    own = [view.chunk(world_size)[rank] for view in views]
    loss = LOSSES[name](*(gather_with_gradient(rows @ weight.T) for rows in own))
    loss.backward()
    return loss.item(), weight.grad


def result_of(name: str, rank: int, world_size: int):
    """Return the steps of a method in a process, or a loss over the rows of all of them."""
    return (loss_of if name in LOSSES else two_steps)(name, rank, world_size)


@pytest.fixture(scope="module", params=BACKENDS)
def found(request):
    """By name what one process returns, and both of two: starting them takes most of the time."""
    return one_and_two(result_of, [*OPTIONS, *LOSSES], request.param)


@pytest.mark.slow
def test_two_processes_have_the_loss_of_one_and_the_mean_of_their_gradients(found):
    for name in LOSSES:
        (loss, gradient), (one, first), (other, second) = found[name]
        assert [one, other] == pytest.approx([loss, loss], rel=1e-12)
        # DistributedDataParallel takes the mean over processes.
        torch.testing.assert_close((first + second) / 2, gradient)
        assert not torch.allclose(first, gradient)


def test_one_process_gets_its_rows_back():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(rows) is rows


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(found):
    for name in OPTIONS:
        whole, one, other = found[name]
        for key, value in whole.items():
            # DistributedDataParallel takes the mean over processes of gradients, the log of losses.
            mean, message = (one[key].double() + other[key]) / 2, f"{name} {key}"
            torch.testing.assert_close(mean, value.double(), rtol=1e-5, atol=1e-6, msg=message)
        method = make_method(name)
        assert all(torch.equal(one[key], other[key]) for key, _ in method.named_buffers()), name
        first, _ = next(method.encoder.backbone.named_parameters(prefix="encoder.backbone"))
        assert not torch.equal(one[first], other[first]), name
