"""Windows cover every pixel and are averaged."""

import pytest
import torch

from mls_d2.modeling.sliding_window import slide, window_starts


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (2049, 769, 513, [0, 513, 1026, 1280]),  # the paper's: the last one ends at the border
        (1025, 769, 513, [0, 256]),
        (769, 769, 513, [0]),
        (500, 769, 513, [0]),
        (12, 4, 4, [0, 4, 8]),
    ],
)
def test_windows_start_where_they_should(length, window, stride, starts):
    assert window_starts(length, window, stride) == starts


def test_logits_are_the_mean_over_the_windows_that_cover_a_pixel():
    image = torch.rand(1, 3, 7, 9, dtype=torch.float64)
    seen = []

    def predict(part):
        # What a window says depends on the window, so that a mean differs from any one of them.
        seen.append(tuple(part.shape[2:]))
        return part[:, :2] * len(seen)

    out = slide(predict, image, (4, 5), (3, 2))
    total, count, number = torch.zeros(2, 7, 9, dtype=torch.float64), torch.zeros(7, 9), 0
    for top in (0, 3):
        for left in (0, 2, 4):
            number += 1
            for y in range(top, top + 4):
                for x in range(left, left + 5):
                    total[:, y, x] += image[0, :2, y, x] * number
                    count[y, x] += 1
    assert seen == [(4, 5)] * 6
    torch.testing.assert_close(out[0], total / count)


def test_a_network_that_sees_single_pixels_gives_the_same_in_windows():
    image = torch.rand(1, 3, 10, 11, dtype=torch.float64)
    torch.testing.assert_close(slide(lambda part: part**2, image, (6, 4), (3, 3)), image**2)
