"""Two processes with half a batch each take the gradient of one with the whole batch."""

import pytest
import torch

from pretrain.batch import Batch
from pretrain.methods import METHODS
from tests.pretrain.methods.tiny import Pyramid
from tests.pretrain.two_processes import run_in_two

MOCO = {"projector_hidden_dim": 5, "projector_out_dim": 4, "dictionary_size": 8}
OPTIONS = {
    "pixpro": {"hidden_dim": 5, "out_dim": 4},
    "slotcon": {"hidden_dim": 5, "out_dim": 4, "num_prototypes": 3},
    "resim": MOCO | {"c4_windows": (32, 16), "c3_windows": (24, 12), "dim": 5, "c3_images": 2},
    "setsim": MOCO,
}


def batch(rank: int, world_size: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(2, 4, 3, 64, 64, generator=generator, dtype=torch.float64)
    boxes = torch.tensor([[[0, 0, 90, 80]] * 4, [[5, 8, 70, 90]] * 4], dtype=torch.float64)
    boxes[1, :2, :2] = 20.0  # Images differ in how many windows both views show.
    flips = torch.zeros(2, 4, dtype=torch.bool)
    sizes = torch.tensor([[120, 100]] * 4)
    own = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
    return Batch(
        list(views[:, own]), boxes[:, own], flips[:, own], sizes[own], torch.arange(4)[own]
    )


def step(name: str, rank: int = 0, world_size: int = 1) -> tuple[float, dict[str, torch.Tensor]]:
    """Return a process's loss and its gradients; BatchNorm takes its running statistics."""
    torch.manual_seed(0)
    method = METHODS.get(name)
    made = method(Pyramid(), 6, method.Options(**OPTIONS[name])).double().eval()
    for weight in made.parameters():
        weight.data.copy_(torch.randn_like(weight))
    loss = sum(made(batch(rank, world_size)).weighted().values())
    loss.backward()
    return loss.item(), {k: p.grad for k, p in made.named_parameters() if p.grad is not None}


def all_steps(rank: int) -> dict:
    return {name: step(name, rank, 2) for name in OPTIONS}


@pytest.mark.slow
def test_two_processes_equal_one():
    found = run_in_two(all_steps)
    for name in OPTIONS:
        loss, gradients = step(name)
        (one, first), (other, second) = (found[rank][name] for rank in range(2))
        assert one != other, name
        assert (one + other) / 2 == pytest.approx(loss, rel=1e-6), name
        for key, gradient in gradients.items():
            # DistributedDataParallel takes the mean over processes.
            mean = (first[key] + second[key]) / 2
            torch.testing.assert_close(mean, gradient, atol=1e-6, rtol=1e-5, msg=f"{name} {key}")
