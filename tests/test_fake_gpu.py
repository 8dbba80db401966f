"""The fake GPU of the dry runs finds what it is for."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from tests.devices import on
from tests.fake_gpu import DEVICE, backward, fake_gpu
from tests.pretrain.methods.tiny import make_method, scene_batch, window_batch


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + torch.ones(3),
        lambda x: x * torch.tensor([True, False, True]),
        lambda x: torch.where(torch.ones(3, dtype=torch.bool), x, 0.0),
        lambda x: x.index_select(0, torch.tensor([0])),
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: torch.nn.functional.linear(x, torch.ones(2, 3)),
    ],
)
def test_tensors_on_different_devices_are_refused(wrong):
    with fake_gpu(), pytest.raises(RuntimeError, match="device"):
        wrong(torch.zeros(3, device=DEVICE))


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool((x > 0).any()),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.index_put_((x > 0,), torch.zeros((), device=DEVICE)),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x[torch.tensor([True, False, True])],
        lambda x: torch.tensor([1.0, 2.0], device=DEVICE),
        lambda x: torch.ones(3).to(DEVICE),
        lambda x: torch.ones(3).copy_(x),
    ],
)
def test_what_the_host_waits_for_is_noted_with_its_line(waiting):
    with fake_gpu() as gpu:
        x = torch.zeros(3, device=DEVICE)
        assert gpu.waits == []
        waiting(x)
    (found,) = gpu.waits
    assert f"test_fake_gpu.py:{waiting.__code__.co_firstlineno}" in found


@pytest.mark.parametrize("lacking", [torch.unique, lambda x: x.masked_select(x > 0)])
def test_other_operations_whose_result_has_an_unknown_shape_are_refused(lacking):
    with fake_gpu(), pytest.raises(DynamicOutputShapeException):
        lacking(torch.zeros(3, device=DEVICE))


def test_what_does_not_wait_is_not_noted():
    with fake_gpu() as gpu:
        x = torch.zeros(3, device=DEVICE)
        x += torch.ones(3).to(DEVICE, non_blocking=True)
        x *= torch.tensor(2.0)  # A scalar on the host becomes an argument.
        torch.where(x > 0, x, 0.0).masked_fill_(x > 0, 1.0)
        torch.ones(3).copy_(x, non_blocking=True)
        x[torch.zeros(2, dtype=torch.long, device=DEVICE)].sum()
        assert torch.ones(2).sum().item() == 2  # The CPU is real.
    assert gpu.waits == []


@pytest.mark.parametrize("name", ["mls", "slotcon", "resim"])
def test_the_walk_back_through_the_graph_is_that_of_autograd(name):
    method, batch = make_method(name), window_batch() if name == "resim" else scene_batch(8)
    losses = [torch.stack(list(method(batch).weighted().values())).sum() for _ in range(2)]
    losses[0].backward()
    expected = {key: weight.grad for key, weight in method.named_parameters()}
    method.zero_grad(set_to_none=True)
    backward(losses[1])
    for key, weight in method.named_parameters():
        assert (weight.grad is None) == (expected[key] is None), key
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, expected[key])


def test_a_pretend_gpu_computes_what_the_cpu_does():
    expected = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    with on("pretend"):
        generator = torch.Generator().manual_seed(3)
        rows = torch.randn(4, 3, generator=generator, requires_grad=True)
        assert rows.device == torch.zeros(1).device == DEVICE
        rows.square().sum().backward()
        chosen = copy.deepcopy(rows).detach()[rows > 0].cpu()
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(2, generator=generator, device=DEVICE)
        with pytest.raises(RuntimeError, match="device"):
            rows + torch.ones(3, device="cpu")
        gradient = rows.grad.cpu()
    assert torch.equal(gradient, 2 * expected)
    assert torch.equal(chosen, expected[expected > 0])
    assert torch.zeros(1).device.type == "cpu"
