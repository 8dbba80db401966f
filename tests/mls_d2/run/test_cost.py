"""Counts of a step against closed forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet50

from mls_d2.run.cost import GB, GPUS, UTILISATION, Gpu, RunCost, measure_step

TEN = Gpu("ten", 10 * GB, bandwidth=1e3, fp32=1e2, tf32=1e4, bf16=4e2, fp16=8e2)


def measure(module, *shape, loss=torch.sum, **options):
    with torch.device("meta"):
        model = module()
    return measure_step(model, lambda: loss(model(torch.zeros(*shape))), images=shape[0], **options)


def test_flops_of_a_convolution_and_a_linear_layer():
    # 8 maps of 10 × 12, each value a sum of 3 · 5 · 5 products; the gradient of the weights is as
    # many, and the images have none.
    found = measure(lambda: nn.Conv2d(3, 8, 5, padding=2), 2, 3, 10, 12)
    assert found.flops == 2 * 2 * (2 * 8 * 10 * 12 * 3 * 25)
    assert measure(lambda: nn.Linear(7, 9), 4, 7).flops == 2 * 2 * (4 * 7 * 9)
    both = measure(lambda: nn.Sequential(nn.Linear(7, 9), nn.Linear(9, 5)), 4, 7)
    assert both.flops == 2 * (2 * 4 * 7 * 9 + 3 * 4 * 9 * 5)


def test_flops_and_weights_of_resnet_50():
    found = measure(resnet50, 1, 3, 224, 224)
    forward, stem = 4_089_184_256, 64 * 3 * 49 * 112 * 112
    assert found.flops == 2 * (3 * forward - stem)
    values, statistics, counters = 25_557_032, 2 * 26_560, 53
    assert found.weights == 4 * (values + statistics) + 8 * counters
    assert found.gradients == found.optimizer == 4 * values


def test_processes_keep_a_copy_of_the_gradients_and_frozen_weights_have_none():
    def half_frozen():
        model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 5, bias=False))
        model[0].requires_grad_(False)
        return model

    found = measure(half_frozen, 2, 3, num_gpus=2)
    assert found.tensors[:3] == (4 * (12 + 20), 2 * 4 * 20, 4 * 20)


def test_activations_at_the_peak():
    # Every exp keeps its result, 4 · 1000 floats, and the input is kept for the first layer. At
    # the peak, the start of the backward pass, there are also the result of the last one's product
    # of gradients, and two scalars. No gradient of a weight exists yet, of which there is one.
    def three():
        model = nn.Sequential(nn.Linear(1, 1000, bias=False))
        model.forward = lambda x: model[0](x).exp().exp().exp()
        return model

    found = measure(three, 4, 1)
    size, gradient = 4 * 4 * 1000, 4 * 1000
    assert found.memory - 2 * gradient == pytest.approx(4 * size, abs=64)


def test_shapes_that_depend_on_values_are_taken_at_their_largest():
    def loss(rows):
        chosen = rows[rows.sum(dim=1) > 0]
        assert chosen.shape == rows.shape
        return chosen.sum() if rows.sum().item() else rows.sum()

    found = measure(lambda: nn.Linear(3, 5), 4, 3, loss=loss)
    assert found.flops == 2 * 2 * 4 * 3 * 5


def test_time_is_the_longer_of_arithmetic_and_traffic():
    found = measure(lambda: nn.Linear(10, 10, bias=False), 10, 10)
    products = [key for key in found.operators if key[0] == "mm"]
    # Of the backward pass the gradient of the sum is a single value, expanded.
    assert [key[2:] for key in products] == [(2000.0, 4 * 300.0), (2000.0, 4 * 201.0)]
    only = type(found)(10, type(found.operators)({products[0]: 1}), 0, 0, 0, 0)
    assert only.seconds(TEN, 1.0) == 2000 / 1e2
    slow = Gpu("slow", 1, 10, 1e2, 0, 1e2, 1e2)
    assert only.seconds(slow, 0.5) == 2 * 1200 / 10


def test_rates_of_convolutions_and_of_half_precision():
    full, half = torch.float32, torch.float16
    assert TEN.rate("convolution_backward", full) == 5e3
    assert (TEN.rate("mm", full), TEN.rate("mm", half)) == (1e2, 8e2)
    assert TEN.rate("mm", torch.bfloat16) == 4e2
    assert GPUS[0].rate("convolution", full) == 15.7e12
    assert GPUS[0].rate("convolution", torch.bfloat16) == GPUS[0].fp16  # AMP_DTYPE auto takes it


def test_autocast_computes_in_half_and_halves_what_is_kept():
    def deep():
        return nn.Sequential(*(nn.Conv2d(8, 8, 3, bias=False) for _ in range(8)))

    full, half = (
        measure(deep, 2, 8, 64, 64, loss=lambda x: x.float().sum(), amp_dtype=amp)
        for amp in (None, torch.bfloat16)
    )
    kinds = {key[1] for key in half.operators if "convolution" in key[0]}
    assert kinds == {torch.bfloat16}
    assert half.flops == full.flops
    assert 0.4 < half.activations / full.activations < 0.7


def test_views_have_no_traffic_and_an_expanded_tensor_is_read_once():
    def loss(rows):
        return F.relu(rows.view(-1, 1).expand(-1, 7)).sum()

    found = measure(lambda: nn.Linear(3, 5, bias=False), 2, 3, loss=loss)
    assert not {"view", "expand"} & {key[0] for key in found.operators}
    (relu,) = (key for key in found.operators if key[0] == "relu")
    assert relu[3] == 4 * (10 + 70)


def test_a_run_of_many_steps():
    step = measure(lambda: nn.Linear(10, 10, bias=False), 10, 10)
    run = RunCost(step, steps=3600, num_gpus=4, disk=0)
    assert run.hours(TEN) == step.seconds(TEN)
    assert run.images_per_s(TEN) == 40 / step.seconds(TEN)
    assert step.seconds(TEN) == step.seconds(TEN, 1) / UTILISATION
    assert RunCost(None, 0, 1, 0).hours(TEN) == 0
