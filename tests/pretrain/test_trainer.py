"""Pieces of the training loop."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from mls_d2.config.defaults import get_cfg
from mls_d2.config.loading import load_cfg
from pretrain import trainer as trainer_module
from pretrain.trainer import PretrainTrainer, ScalarMeans, augment_from_config


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


def test_means_go_on_after_a_resume():
    first, second = ScalarMeans(), ScalarMeans()
    first.add({"a": torch.tensor(1.0)})
    first.add({"a": torch.tensor(2.0)})
    second.load_state_dict(first.state_dict())
    second.add({"a": torch.tensor(6.0)})
    assert second.take()["a"].item() == 3.0


def test_what_could_not_be_measured_is_not_logged():
    logger = SimpleNamespace(storage=EventStorage())
    scalars = {"known": torch.tensor(1.5), "unknown": torch.tensor(float("nan"))}
    PretrainTrainer._log(logger, scalars, {})
    assert logger.storage.latest() == {"known": (1.5, 0)}


def test_what_processes_reduce_stays_on_their_device(monkeypatch):
    reduced = {}

    def reduce(scalars):
        reduced.update({name: value.device.type for name, value in scalars.items()})
        return {name: torch.zeros(()) for name in scalars}

    monkeypatch.setattr(trainer_module.comm, "reduce_dict", reduce)
    logger = SimpleNamespace(storage=EventStorage())
    PretrainTrainer._log(logger, {"a": torch.zeros((), device="meta")}, {"b": torch.zeros(())})
    assert reduced == {"a": "meta", "b": "meta"}


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


def pixels_of(*shape: int) -> torch.Tensor:
    values = np.random.default_rng(2).integers(0, 256, (*shape, 8, 8, 3), dtype=np.uint8)
    return torch.from_numpy(values)


def test_local_views_are_augmented_and_do_not_change_the_two():
    transform = augment()
    plain = transform(views(), 7)
    local = transform.local(pixels_of(3, 2), 7)
    assert local.shape == (3, 2, 3, 8, 8)
    assert all(torch.equal(a, b) for a, b in zip(plain, transform(views(), 7), strict=True))
    same = pixels_of(1, 1).expand(3, 2, -1, -1, -1)
    changed = transform.local(same, 7).flatten(0, 1)
    assert len({tuple(view.flatten().tolist()) for view in changed}) == 6


def test_processes_augment_their_share_of_local_views_as_one_process_would_the_whole():
    pixels = pixels_of(6, 2)
    whole = augment().local(pixels, 7)
    for rank in range(3):
        own = slice(2 * rank, 2 * rank + 2)
        part = augment(rank=rank, world_size=3).local(pixels[own], 7)
        torch.testing.assert_close(part, whole[own])


def test_second_views_can_have_other_probabilities():
    """BYOL's: every first view is blurred, and no second one; the other way round inverted."""
    cfg = load_cfg(None, ["PRETRAIN.AUGMENT.JITTER_PROB", "0", "PRETRAIN.AUGMENT.GRAY_PROB", "0"])
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.SEED = [0.0] * 3, [255.0] * 3, 0
    node = cfg.PRETRAIN.AUGMENT
    node.BLUR_PROB, node.SOLARIZE_PROB, node.BLUR_SIGMA = 1.0, 0.0, (2.0, 2.0)
    node.VIEW2.BLUR_PROB, node.VIEW2.SOLARIZE_PROB = 0.0, 1.0
    transform, raw = augment_from_config(cfg, torch.device("cpu")), pixels_of(2, 5)
    first, second = transform(raw, 0)
    exact = raw.permute(0, 1, 4, 2, 3).float() / 255
    assert (first.std(dim=(2, 3)) < 0.6 * exact[0].std(dim=(2, 3))).all()
    torch.testing.assert_close(second, torch.where(exact[1] < 0.5, exact[1], 1 - exact[1]))
    # Local views are as first ones.
    local = transform.local(raw[0].unsqueeze(1), 0)[:, 0]
    assert (local.std(dim=(2, 3)) < 0.6 * exact[0].std(dim=(2, 3))).all()


def test_the_same_probability_for_both_views_is_what_it_was_without_the_choice():
    cfg = get_cfg()
    cfg.SEED = 0
    plain = augment_from_config(cfg, torch.device("cpu"))(views(), 3)
    node = cfg.PRETRAIN.AUGMENT
    node.VIEW2.BLUR_PROB, node.VIEW2.SOLARIZE_PROB = node.BLUR_PROB, node.SOLARIZE_PROB
    again = augment_from_config(cfg, torch.device("cpu"))(views(), 3)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
