"""Collect and distribute against loops over every index."""

import pytest
import torch

from mls_d2.modeling.psa_mask import psa_mask


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_loops(mask: torch.Tensor, mode: str, size: tuple[int, int]) -> torch.Tensor:
    count, _, height, width = mask.shape
    out = torch.zeros(count, height * width, height, width, dtype=mask.dtype)
    for h in range(height):
        for w in range(width):
            for i in range(size[0]):
                for j in range(size[1]):
                    y, x = i + h - (size[0] - 1) // 2, j + w - (size[1] - 1) // 2
                    if 0 <= y < height and 0 <= x < width:
                        value = mask[:, i * size[1] + j, h, w]
                        if mode == "collect":
                            out[:, y * width + x, h, w] = value
                        else:
                            out[:, h * width + w, y, x] = value
    return out


@pytest.mark.parametrize("mode", ["collect", "distribute"])
@pytest.mark.parametrize(
    ("size", "height", "width"),
    [
        ((7, 5), 4, 3),  # over-complete: 2n - 1
        ((3, 3), 4, 5),  # smaller than the map
        ((1, 1), 3, 2),
        ((5, 1), 3, 4),
        ((9, 11), 2, 3),  # larger than 2n - 1
    ],
)
def test_every_entry_is_where_the_loops_put_it(mode, size, height, width):
    mask = random(2, size[0] * size[1], height, width)
    out = psa_mask(mask, mode, size)
    assert out.shape == (2, height * width, height, width)
    assert torch.equal(out, by_loops(mask, mode, size))


@pytest.mark.parametrize("mode", ["collect", "distribute"])
def test_gradients_are_those_of_finite_differences(mode):
    mask = random(1, 15, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: psa_mask(m, mode, (3, 5)), mask)


def test_distribute_is_collect_transposed():
    mask = random(2, 21, 4, 3)
    collected, distributed = (psa_mask(mask, mode, (7, 3)) for mode in ("collect", "distribute"))
    assert torch.equal(collected.flatten(2).transpose(1, 2), distributed.flatten(2))


@pytest.mark.parametrize(
    ("shape", "mode", "size", "message"),
    [
        ((1, 9, 2, 2), "gather", (3, 3), "mode must be one of"),
        ((1, 8, 2, 2), "collect", (4, 2), "must be odd"),
        ((1, 10, 2, 2), "collect", (3, 3), r"expected a mask \(N, 3·3, H, W\)"),
        ((9, 2, 2), "collect", (3, 3), "expected a mask"),
    ],
)
def test_what_does_not_fit_is_refused(shape, mode, size, message):
    with pytest.raises(ValueError, match=message):
        psa_mask(torch.zeros(shape), mode, size)
