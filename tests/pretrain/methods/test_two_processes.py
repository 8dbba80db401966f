"""Two processes take the step of one with the whole batch: losses, gradients, buffers."""

import pytest
import torch
from torch import nn

from pretrain.batchnorm import gather
from pretrain.methods import Method
from tests.pretrain.methods.tiny import make_batch, make_method
from tests.pretrain.two_processes import run_in_two

OPTIONS = {
    "vicreg": {},
    "swav": {"num_prototypes": 6, "queue_size": 8, "queue_start": 0.0},
    "dino": {"num_prototypes": 5, "bottleneck_dim": 3},
    "mocov3": {"momentum": 0.5},
}


def build(name: str) -> Method:
    """Return a method without BatchNorm, whose statistics are those of a process."""
    torch.manual_seed(0)
    method = make_method(name, **OPTIONS[name])
    if name != "dino":
        method.encoder.projector = nn.Linear(6, 4)
    if name == "mocov3":
        method.predictor = nn.Linear(4, 4)
        method.set_encoder(method.encoder)
    return method.double()


def two_steps(name: str, rank: int = 0, world_size: int = 1) -> dict[str, torch.Tensor]:
    """Return loss and gradients of a second step, and the buffers after it, by name."""
    method = build(name)
    views = torch.randn(2, 2, 8, 3, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    for step in range(2):
        method.before_step(step)
        method.zero_grad()
        output = method(make_batch([view.chunk(world_size)[rank] for view in views[step]]))
        loss = torch.stack(list(output.weighted().values())).sum()
        loss.backward()
        method.enqueue({table: gather(rows) for table, rows in output.keys.items()})
    gradients = {key: p.grad for key, p in method.named_parameters() if p.grad is not None}
    return {"loss": loss.detach()} | gradients | dict(method.named_buffers())


def all_steps(rank: int) -> dict:
    return {name: two_steps(name, rank, 2) for name in OPTIONS}


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one():
    found = run_in_two(all_steps)
    for name in OPTIONS:
        for key, value in two_steps(name).items():
            one, other = (found[rank][name][key] for rank in range(2))
            # DistributedDataParallel takes the mean over processes of gradients, the log of losses.
            expected = value.double()
            torch.testing.assert_close((one.double() + other) / 2, expected, rtol=1e-5, atol=1e-6)
            if key in dict(build(name).named_buffers()):
                assert torch.equal(one, other), key
