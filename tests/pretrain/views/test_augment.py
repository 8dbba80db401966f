"""The augmentation of a batch: the same for any number of processes, per group of views."""

import dataclasses

import numpy as np
import pytest
import torch

from mls_d2.config.defaults import get_cfg
from pretrain.views import augment as module
from pretrain.views.augment import augment_from_config


def augment(seed: int = 0, rank: int = 0, world_size: int = 1, **changes):
    cfg = get_cfg()
    cfg.SEED = seed
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [127.5, 0.0, 255.0], [127.5, 255.0, 51.0]
    for key, value in changes.items():
        node, _, leaf = key.rpartition("__")
        (cfg.PRETRAIN.AUGMENT[node] if node else cfg.PRETRAIN.AUGMENT)[leaf] = value
    made = augment_from_config(cfg, torch.zeros(()).device)
    made.rank, made.world_size = rank, world_size
    return made


def pixels(*shape: int) -> torch.Tensor:
    values = np.random.default_rng(2).integers(0, 256, (*shape, 8, 8, 3), dtype=np.uint8)
    return torch.from_numpy(values).to(torch.zeros(()).device)


def test_processes_augment_their_share_as_one_process_would_the_whole():
    groups = [pixels(2, 6), pixels(3, 6)]
    whole = augment()(groups, 7)
    assert len(whole) == 5
    for rank in range(3):
        own = slice(2 * rank, 2 * rank + 2)
        part = augment(rank=rank, world_size=3)([group[:, own].clone() for group in groups], 7)
        for view, expected in zip(part, whole, strict=True):
            torch.testing.assert_close(view, expected[own])


@pytest.mark.parametrize("values", [1, 2 * 3 * 8 * 8, 5 * 3 * 8 * 8])
def test_parts_that_fit_the_cache_are_augmented_as_the_whole_would_be(monkeypatch, values):
    whole = augment()([pixels(2, 6)], 7)
    monkeypatch.setattr(module, "_CACHED_VALUES", values)
    for one, other in zip(augment()([pixels(2, 6)], 7), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_drawn_depends_on_seed_iteration_and_position_alone():
    raw = [pixels(2, 3)]
    first, again = augment()(raw, 7), augment()(raw, 7)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    second_process = augment(rank=1, world_size=2)
    for other in (augment()(raw, 8), augment(seed=1)(raw, 7), second_process(raw, 7)):
        assert not torch.equal(first[0], other[0])
    # A second group neither changes the first nor repeats its parameters.
    more = augment()([*raw, *raw], 7)
    assert all(torch.equal(a, b) for a, b in zip(first, more, strict=False))
    assert not torch.equal(more[0], more[2])


def test_without_augmentation_the_views_are_the_normalised_pixels():
    transform, raw = augment(), pixels(2, 3)
    nothing = {"jitter_prob": 0.0, "gray_prob": 0.0, "blur_prob": 0.0}
    transform.photometric = [dataclasses.replace(transform.photometric[0], **nothing)]
    for index, view in enumerate(transform([raw], 0)):
        for channel, (mean, std) in enumerate([(127.5, 127.5), (0, 255), (255, 51)]):
            expected = (raw[index, ..., channel].float() - mean) / std
            torch.testing.assert_close(view[:, channel], expected)


def test_second_and_local_views_can_have_other_probabilities():
    """Every first view is blurred, every second one solarised, and local ones are as they were."""
    sharp = {"VIEW2__BLUR_PROB": 0.0, "LOCAL__BLUR_PROB": 0.0, "VIEW2__SOLARIZE_PROB": 1.0}
    transform = augment(
        JITTER_PROB=0.0, GRAY_PROB=0.0, BLUR_PROB=1.0, BLUR_SIGMA=(2.0, 2.0), **sharp
    )
    transform.mean, transform.std = [0.0] * 3, [255.0] * 3
    raw = pixels(2, 5)
    first, second, local, _ = transform([raw, raw], 0)
    exact = raw.permute(0, 1, 4, 2, 3).float() / 255
    assert (first.std(dim=(2, 3)) < 0.6 * exact[0].std(dim=(2, 3))).all()
    torch.testing.assert_close(second, torch.where(exact[1] < 0.5, exact[1], 1 - exact[1]))
    torch.testing.assert_close(local, exact[0])


def test_the_same_probability_for_both_views_is_what_none_means():
    plain = augment()([pixels(2, 3)], 3)
    again = augment(VIEW2__BLUR_PROB=0.5, VIEW2__SOLARIZE_PROB=0.0)([pixels(2, 3)], 3)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
