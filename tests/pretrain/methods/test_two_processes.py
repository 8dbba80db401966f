"""Two processes take the step of one with the whole batch: losses, gradients, buffers."""

import dataclasses

import pytest
import torch

from pretrain.batch import Batch
from pretrain.batchnorm import gather
from pretrain.gather import gather_with_gradient
from pretrain.methods import METHODS
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
    "swav": {"queue_size": 4, "queue_start": 0.0},
    "slotcon": {"num_prototypes": 3},
    "resim": {"c3_images": 2},
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
    method = make_method(name, **OPTIONS.get(name, {})).eval()
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


def test_one_process_gets_its_rows_back():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(rows) is rows


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_processes_take_the_steps_of_one(backend):
    found = one_and_two(two_steps, METHODS.names(), backend)
    for name, (whole, one, other) in found.items():
        for key, value in whole.items():
            # DistributedDataParallel takes the mean over processes of gradients, the log of losses.
            mean, message = (one[key].double() + other[key]) / 2, f"{name} {key}"
            torch.testing.assert_close(mean, value.double(), rtol=1e-5, atol=1e-6, msg=message)
        method = make_method(name)
        assert all(torch.equal(one[key], other[key]) for key, _ in method.named_buffers()), name
        first, _ = next(method.encoder.backbone.named_parameters(prefix="encoder.backbone"))
        assert not torch.equal(one[first], other[first]), name
