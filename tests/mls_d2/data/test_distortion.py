"""Photometric distortion against its definition pixel by pixel."""

import colorsys

import numpy as np
import pytest

from mls_d2.data import distortion
from mls_d2.data.distortion import photometric_distortion, shift_colours


def picture():
    return np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def forced(monkeypatch, coins, uniform):
    """Let the coins (brightness, contrast, contrast last, saturation, hue) and draws be known."""
    tosses, draws = iter(coins), iter(uniform)
    monkeypatch.setattr(distortion, "_coin", lambda: next(tosses))
    monkeypatch.setattr(np.random, "uniform", lambda low, high: low + next(draws) * (high - low))
    return photometric_distortion(picture())


def test_without_any_of_them_the_image_stays(monkeypatch):
    assert np.array_equal(forced(monkeypatch, [False] * 5, []), picture())


def test_brightness_adds_and_clips(monkeypatch):
    out = forced(monkeypatch, [True, False, False, False, False], [0.75])
    assert np.array_equal(out, np.clip(picture().astype(int) + 16, 0, 255))


@pytest.mark.parametrize("last", [False, True])
def test_contrast_multiplies_and_clips(monkeypatch, last):
    out = forced(monkeypatch, [False, True, last, False, False], [0.75])
    assert np.array_equal(out, np.clip(np.round(picture() * 1.25), 0, 255))


def test_contrast_comes_before_or_after_the_colours(monkeypatch):
    # Bright pixels clip before the colours change, or after it: not the same.
    first, last = (
        forced(monkeypatch, [False, True, side, True, False], [1.0, 0.0]) for side in (False, True)
    )
    middle = np.clip(np.round(picture() * 1.5), 0, 255).astype(np.uint8)
    assert np.array_equal(first, shift_colours(middle, 0.5, 0))
    faded = shift_colours(picture(), 0.5, 0)
    assert np.array_equal(last, np.clip(np.round(faded * 1.5), 0, 255))
    assert not np.array_equal(first, last)


@pytest.mark.parametrize(("saturation", "hue"), [(0.5, 0), (1.4, 0), (1.0, 18), (0.8, -18)])
def test_colours_are_those_of_the_hsv_model(saturation, hue):
    pixels = picture().reshape(-1, 3)
    expected = []
    for red, green, blue in pixels / 255:
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        expected.append(colorsys.hsv_to_rgb((h + hue / 180) % 1, min(1, s * saturation), v))
    out = shift_colours(picture(), saturation, hue).reshape(-1, 3)
    error = np.abs(out - 255 * np.array(expected))
    # Eight bits for hue and saturation in between: a few levels at most, half a level on average.
    assert error.max() < 5
    assert error.mean() < 1
    assert np.array_equal(out.max(1), pixels.max(1))


def test_half_of_all_draws_change_each_of_them_within_the_bounds():
    image = np.full((1, 1, 3), (200, 100, 100), np.uint8)
    outs = np.array([photometric_distortion(image)[0, 0] for _ in range(2000)], float)
    same = (outs == image[0, 0]).all(1).mean()
    # None of four with 1/16, and a little for draws that change nothing after rounding.
    assert 0.04 < same < 0.11
    assert outs.max() <= 255
    top = outs.max(1)  # the value: brightness and contrast only
    assert top.min() >= np.floor((200 - 32) * 0.5)
    assert (top < 200).mean() == pytest.approx((top > 200).mean(), abs=0.06)
