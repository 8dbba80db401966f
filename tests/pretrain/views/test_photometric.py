"""Batched augmentation against torchvision's functions, image by image."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference

from pretrain.views.photometric import (
    Photometric,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    augment,
    gaussian_blur,
    grayscale,
    normalize,
    solarize,
)

PAIRS = [
    (adjust_brightness, reference.adjust_brightness, [0.0, 0.6, 1.0, 1.4]),
    (adjust_contrast, reference.adjust_contrast, [0.0, 0.6, 1.0, 1.4]),
    (adjust_saturation, reference.adjust_saturation, [0.0, 0.6, 1.0, 1.4]),
    (adjust_hue, reference.adjust_hue, [-0.5, -0.1, 0.0, 0.37]),
]
NOTHING = {
    "jitter_prob": 0.0,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "gray_prob": 0.0,
    "blur_prob": 0.0,
    "blur_sigma": (0.1, 2.0),
}


def images(count: int = 4, side: int = 9) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(5))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("ours", "theirs", "values"), PAIRS, ids=lambda item: getattr(item, "__name__", "")
)
def test_each_image_gets_what_torchvision_makes_of_it_alone(ours, theirs, values):
    batch = images(len(values))
    got = ours(batch, torch.tensor(values))
    expected = torch.stack(
        [theirs(image, value) for image, value in zip(batch, values, strict=True)]
    )
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)


def test_hue_of_grey_pixels_stays():
    grey = torch.full((1, 3, 4, 4), 0.4)
    torch.testing.assert_close(adjust_hue(grey, torch.tensor([0.3])), grey)


def test_a_third_of_a_turn_makes_red_green():
    red = torch.tensor([0.8, 0.1, 0.1]).view(1, 3, 1, 1)
    green = torch.tensor([0.1, 0.8, 0.1]).view(1, 3, 1, 1)
    torch.testing.assert_close(adjust_hue(red, torch.tensor([1 / 3])), green)


def test_grayscale_is_torchvisions():
    batch = images()
    torch.testing.assert_close(
        grayscale(batch),
        reference.rgb_to_grayscale(batch, num_output_channels=3),
        atol=1e-3,
        rtol=0,
    )


def test_solarize_is_torchvisions():
    batch = images()
    torch.testing.assert_close(solarize(batch), reference.solarize(batch, 0.5))
    transform = Photometric(**NOTHING | {"solarize_prob": 0.5})
    out = transform(images(64), seeded())
    changed = (out != images(64)).flatten(1).any(dim=1)
    assert 20 <= changed.sum() <= 44
    torch.testing.assert_close(out[changed], reference.solarize(images(64)[changed], 0.5))


@pytest.mark.parametrize("side", [9, 32])
def test_blur_equals_a_convolution_with_reflected_borders(side):
    batch, sigmas = images(3, side), torch.tensor([0.3, 0.8, 1.3], device="cpu")
    got = gaussian_blur(batch, sigmas)
    expected = [
        reference.gaussian_blur(image, [2 * int(np.ceil(3 * sigma)) + 1] * 2, [sigma] * 2)
        for image, sigma in zip(batch, sigmas.tolist(), strict=True)
    ]
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=0)


def test_blur_keeps_a_constant_image():
    flat = torch.full((2, 3, 8, 8), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([0.5, 2.0], device="cpu")), flat)


def test_normalize_by_hand():
    got = normalize(torch.full((1, 3, 1, 1), 0.5), [127.5, 0.0, 255.0], [255.0, 127.5, 51.0])
    torch.testing.assert_close(got.flatten(), torch.tensor([0.0, 1.0, -2.5]))


def test_with_all_probabilities_zero_nothing_changes():
    batch = images()
    torch.testing.assert_close(Photometric(**NOTHING)(batch.clone(), seeded()), batch)


def test_each_step_touches_about_the_share_of_images_that_its_probability_says():
    batch = images(400, 5)
    out = Photometric(**NOTHING | {"gray_prob": 0.2})(batch.clone(), seeded())
    grey = ((out[:, 0] - out[:, 1]).abs().amax(dim=(1, 2)) < 1e-6).float().mean().item()
    assert 0.15 < grey < 0.25
    untouched = ~((out[:, 0] - out[:, 1]).abs().amax(dim=(1, 2)) < 1e-6)
    torch.testing.assert_close(out[untouched], batch[untouched])


def test_the_jitter_draws_parameters_and_order_for_every_image():
    batch = images(1).expand(64, -1, -1, -1).clone()
    out = Photometric(**NOTHING | {"jitter_prob": 1.0})(batch, seeded())
    distance = torch.cdist(out.flatten(1), out.flatten(1)) + torch.eye(64)
    assert distance.min() > 1e-4


def test_the_same_seed_gives_the_same_views_and_values_stay_in_range():
    transform = Photometric(**NOTHING | {"jitter_prob": 0.8, "gray_prob": 0.2, "blur_prob": 0.5})
    one, other = transform(images(32), seeded(3)), transform(images(32), seeded(3))
    assert torch.equal(one, other)
    assert not torch.equal(one, transform(images(32), seeded(4)))
    assert one.min() >= 0
    assert one.max() <= 1


def test_what_happens_to_an_image_does_not_depend_on_the_others():
    transform = Photometric(**NOTHING | {"jitter_prob": 0.8, "gray_prob": 0.2, "blur_prob": 0.5})
    parameters = transform.draw(32, seeded(3))
    whole = augment(images(32), parameters)
    part = torch.tensor([30, 2, 17, 9], device="cpu")
    torch.testing.assert_close(augment(images(32)[part], parameters[part]), whole[part])
