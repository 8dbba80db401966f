"""A compiled network takes the steps of an eager one, in one process and in two."""

import pytest
import torch

from mls_d2.run.processes import distribute
from pretrain.batchnorm import split_batchnorm
from tests.pretrain.test_batchnorm import batch, network
from tests.two_processes import one_and_two


def two_steps(name: str, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """Return output and gradients of a second step, and the statistics after it, by name."""
    made = split_batchnorm(network(), 2)
    if name == "compiled":
        # All but the kernels, which need a compiler.
        made.compile(backend="aot_eager", fullgraph=True)
    model = distribute(made, torch.device("cpu"))
    for _ in range(2):
        model.zero_grad()
        output = model(batch().chunk(world_size)[rank])
        output.square().sum().backward()
    gradients = {key: weight.grad for key, weight in made.named_parameters()}
    return {"output": output.detach()} | gradients | dict(made.named_buffers())


@pytest.mark.slow
def test_split_batchnorm_compiles_to_what_it_computes():
    found = one_and_two(two_steps, ["eager", "compiled"], "gloo")
    for compiled, eager in zip(found["compiled"], found["eager"], strict=True):
        assert compiled.keys() == eager.keys()
        for key, value in eager.items():
            torch.testing.assert_close(compiled[key], value, msg=key)
