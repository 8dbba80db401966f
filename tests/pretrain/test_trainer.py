"""Pieces of the training loop."""

import numpy as np
import pytest
import torch

from mls_d2.config import get_cfg
from pretrain import trainer as trainer_module
from pretrain.trainer import ScalarMeans, augment_from_config


def test_means_are_over_the_steps_since_they_were_taken():
    means = ScalarMeans()
    for value in (1.0, 2.0, 6.0):
        means.add({"a": torch.tensor(value), "b": torch.tensor(-value, requires_grad=True)})
    taken = means.take()
    assert {name: value.item() for name, value in taken.items()} == {"a": 3.0, "b": -3.0}
    assert not taken["b"].requires_grad
    assert means.take() == {}
    means.add({"a": torch.tensor(5.0)})
    assert means.take()["a"].item() == 5.0


def augment(seed: int = 0, rank: int = 0, world_size: int = 1):
    cfg = get_cfg()
    cfg.SEED = seed
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [127.5, 0.0, 255.0], [127.5, 255.0, 51.0]
    made = augment_from_config(cfg, torch.device("cpu"))
    made.rank, made.world_size = rank, world_size
    return made


def views() -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


def test_processes_augment_their_share_as_one_process_would_the_whole():
    pixels = np.random.default_rng(1).integers(0, 256, (2, 6, 8, 8, 3), dtype=np.uint8)
    whole = augment()(torch.from_numpy(pixels), 7)
    for rank in range(3):
        own = slice(2 * rank, 2 * rank + 2)
        share = torch.from_numpy(pixels[:, own].copy())
        for part, view in zip(augment(rank=rank, world_size=3)(share, 7), whole, strict=True):
            torch.testing.assert_close(part, view[own])


@pytest.mark.parametrize("values", [1, 2 * 3 * 8 * 8, 5 * 3 * 8 * 8])
def test_parts_that_fit_the_cache_are_augmented_as_the_whole_would_be(monkeypatch, values):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 6, 8, 8, 3), dtype=np.uint8)
    whole = augment()(torch.from_numpy(pixels), 7)
    monkeypatch.setattr(trainer_module, "_CACHED_VALUES", values)
    for one, other in zip(augment()(torch.from_numpy(pixels), 7), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_drawn_depends_on_seed_iteration_and_place_alone():
    first = augment()(views(), 7)
    again = augment()(views(), 7)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    second_process = augment(rank=1, world_size=2)
    for other in (augment()(views(), 8), augment(seed=1)(views(), 7), second_process(views(), 7)):
        assert not torch.equal(first[0], other[0])


def test_without_augmentation_the_views_are_the_normalised_pixels():
    transform = augment()
    nothing = {"jitter_prob": 0.0, "gray_prob": 0.0, "blur_prob": 0.0}
    transform.photometric = transform.photometric.__class__(
        **{**transform.photometric.__dict__, **nothing}
    )
    raw = views()
    for index, view in enumerate(transform(raw, 0)):
        for channel, (mean, std) in enumerate([(127.5, 127.5), (0, 255), (255, 51)]):
            expected = (raw[index, ..., channel].float() - mean) / std
            torch.testing.assert_close(view[:, channel], expected)
