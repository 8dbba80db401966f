"""Geometry of views against slow loops, torchvision's RoIAlign and sums of many samples."""

import itertools
import math

import pytest
import torch
from torchvision.ops import roi_align

from pretrain.geometry import (
    aligned_maps,
    aligned_regions,
    carried_boxes,
    cell_distances,
    inside,
    overlap_boxes,
    pooled_regions,
    view_frames,
    window_grid,
)

# Three images: a general pair, the same crop twice, and two crops without a common pixel.
RECTANGLES = torch.tensor(
    [
        [[10, 20, 100, 80], [5, 5, 60, 60], [0, 0, 50, 40]],
        [[40, 30, 90, 120], [5, 5, 60, 60], [70, 10, 30, 80]],
    ],
    dtype=torch.float64,
)
SIZES = torch.tensor([[200, 160], [90, 80], [100, 120]])
FLIPS = torch.tensor(list(itertools.product([[True] * 3, [False] * 3], repeat=2)))


def draw(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rectangles ``(2, count, 4)`` in images of 120 × 160, and flips."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.randint(20, 100, (2, count, 2), generator=generator).double()
    room = torch.tensor([160.0, 120.0]) - extent
    corner = (torch.rand(2, count, 2, generator=generator) * room).floor()
    flips = torch.rand(2, count, generator=generator) < 0.5
    return torch.cat([corner, extent], dim=-1), flips


def frame_loop(rectangle, flipped, size):
    x, y, w, h = rectangle
    height, width = size
    x0, x1 = x / (width - 1), (x + w - 1) / (width - 1)
    if flipped:
        x0, x1 = x1, x0
    return x0, y / (height - 1), x1, (y + h - 1) / (height - 1)


def distance_loop(rectangles, flips, size, side):
    """Return the ``(P, P)`` distances of one image, cell by cell."""
    frames = [frame_loop(r, f, size) for r, f in zip(rectangles, flips, strict=True)]
    diagonal = max(math.hypot((x1 - x0) / side, (y1 - y0) / side) for x0, y0, x1, y1 in frames)

    def centres(frame):
        x0, y0, x1, y1 = frame
        for v in range(side):
            for u in range(side):
                yield x0 + (u + 0.5) * (x1 - x0) / side, y0 + (v + 0.5) * (y1 - y0) / side

    return [
        [math.hypot(a - c, b - d) / diagonal for c, d in centres(frames[1])]
        for a, b in centres(frames[0])
    ]


@pytest.mark.parametrize("number", range(4))
def test_distances_of_cells_equal_a_loop(number):
    flips = FLIPS[number]
    got = cell_distances(RECTANGLES, flips, SIZES, 3)
    for n in range(3):
        expected = distance_loop(
            RECTANGLES[:, n].tolist(), flips[:, n].tolist(), SIZES[n].tolist(), 3
        )
        torch.testing.assert_close(got[n], torch.tensor(expected, dtype=torch.float64))


def test_distances_under_swapped_and_mirrored_views():
    rectangles, flips = draw(20)
    sizes = torch.tensor([[120, 160]]).expand(20, 2)
    got = cell_distances(rectangles, flips, sizes, 4)
    torch.testing.assert_close(cell_distances(rectangles.flip(0), flips.flip(0), sizes, 4), got.mT)
    mirrored = cell_distances(rectangles, ~flips, sizes, 4).view(20, 4, 4, 4, 4).flip(2, 4)
    torch.testing.assert_close(mirrored.reshape(20, 16, 16), got)
    # Mirroring one view renames its columns.
    one = cell_distances(rectangles, torch.stack([~flips[0], flips[1]]), sizes, 4)
    torch.testing.assert_close(one.view(20, 4, 4, 16).flip(2).view(20, 16, 16), got)


def test_the_same_crop_has_distance_zero_on_the_diagonal_and_neighbours_below_one():
    distance = cell_distances(RECTANGLES, FLIPS[3], SIZES, 7)[1]
    assert distance.diagonal().max() < 1e-12
    assert distance[0, 1].item() == pytest.approx(89 / math.hypot(79, 89))
    assert cell_distances(RECTANGLES, FLIPS[3], SIZES, 7)[2].min() > 0.7


def test_distances_are_anisotropic_in_an_image_that_is_no_square():
    crop = torch.tensor([[[0, 0, 50, 50]], [[0, 0, 50, 50]]], dtype=torch.float64)
    no_flip = torch.zeros(2, 1, dtype=torch.bool)
    wide = cell_distances(crop, no_flip, torch.tensor([[51, 201]]), 2)[0]
    right, down = wide[0, 1:3].tolist()
    assert 4 * right == pytest.approx(down)


def test_views_of_one_pixel_and_bad_input():
    dot = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 1, 1]]])
    assert view_frames(dot, torch.zeros(2, 1, dtype=torch.bool), torch.tensor([[1, 1]])).eq(0).all()
    distance = cell_distances(dot, torch.zeros(2, 1, dtype=torch.bool), torch.tensor([[1, 1]]), 2)
    assert distance.isfinite().all()
    with pytest.raises(ValueError, match="two views and a side >= 1, got 1 and 7"):
        cell_distances(dot[:1], torch.zeros(1, 1, dtype=torch.bool), torch.tensor([[1, 1]]), 7)


def test_overlap_boxes_equal_a_loop():
    rectangles, flips = draw(60)
    boxes, present = overlap_boxes(rectangles, flips)
    assert 0 < present.sum() < 60
    for n in range(60):
        (x, y, w, h), (a, b, c, d) = rectangles[:, n].tolist()
        left, top, right, low = max(x, a), max(y, b), min(x + w, a + c), min(y + h, b + d)
        assert bool(present[n]) == (left < right and top < low)
        for view, (px, py, pw, ph) in enumerate(((x, y, w, h), (a, b, c, d))):
            x0, x1 = (left - px) / pw, (right - px) / pw
            if flips[view, n]:
                x0, x1 = 1 - x1, 1 - x0
            expected = [x0, (top - py) / ph, x1, (low - py) / ph]
            assert boxes[view, n].tolist() == pytest.approx(expected, abs=1e-12)


def test_overlap_boxes_of_equal_views_are_whole():
    same = RECTANGLES[:1].expand(2, 3, 4)
    for flips in FLIPS:
        boxes, present = overlap_boxes(same, flips)
        assert present.all()
        assert boxes.tolist() == [[[0, 0, 1, 1]] * 3] * 2


def shares(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return boxes in shares of a view, some of which are slivers, the last one the whole view."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(*shape, 2, 2, generator=generator, dtype=torch.float64).sort(dim=-2).values
    boxes = ends.flatten(-2)
    boxes[..., 0, 2:] = boxes[..., 0, :2] + 1e-3
    boxes[..., -1, :] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return boxes


@pytest.mark.parametrize("size", [(56, 56), (7, 7), (4, 4), (1, 1), (9, 30)])
def test_aligned_regions_are_those_of_roi_align(size):
    boxes = shares(3, 12)
    maps = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    images = torch.arange(3.0).repeat_interleave(12).double().unsqueeze(1)
    height, width = size
    scaled = boxes.flatten(0, 1) * torch.tensor([width, height, width, height])
    expected = roi_align(maps, torch.cat([images, scaled], dim=1), 7, aligned=True)
    got = aligned_regions(maps, boxes, 7)
    torch.testing.assert_close(got.flatten(0, 1), expected)
    weight = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad((out.reshape(expected.shape) * weight).sum(), maps, retain_graph=True)
        for out in (got, expected)
    ]
    torch.testing.assert_close(*gradients)


def test_aligned_regions_of_single_and_half_precision():
    boxes, maps = shares(3, 12), torch.randn(3, 5, 14, 14)
    exact = aligned_regions(maps.double(), boxes, 7)
    torch.testing.assert_close(aligned_regions(maps, boxes, 7).double(), exact, rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert aligned_regions(maps.bfloat16(), boxes.float(), 7).dtype == torch.float32


def test_a_box_without_area_has_finite_regions():
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 1.0, 0.0]]])
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    # At the middle lie the four inner cells; at the corner the last of the first row.
    regions = aligned_regions(maps, boxes, 2)
    assert regions.flatten(2).tolist() == [[[7.5] * 4, [3.0] * 4]]


def test_aligned_maps_are_those_of_roi_align_mirrored_back():
    rectangles, flips = draw(40, seed=1)
    boxes, present = overlap_boxes(rectangles, flips)
    maps = torch.randn(40, 3, 7, 7, dtype=torch.float64, requires_grad=True)
    rows = torch.arange(40).unsqueeze(1)
    for view in range(2):
        got = aligned_maps(maps, boxes[view], flips[view], present)
        assert got[~present].abs().sum() == 0
        # RoIAlign takes as many samples as a cell needs: one.
        regions = torch.cat([rows, boxes[view] * 7], dim=1)[present]
        expected = roi_align(maps, regions, 7, aligned=True)
        mirrored = flips[view, present, None, None, None]
        torch.testing.assert_close(got[present], torch.where(mirrored, expected.flip(3), expected))
    got.square().sum().backward()
    assert maps.grad[~present].abs().sum() == 0
    assert (maps.grad[present].flatten(1).abs().sum(1) > 0).all()


def test_aligned_maps_of_coordinates_are_the_coordinates_of_the_overlap():
    rectangles, flips = draw(30, seed=2)
    boxes, present = overlap_boxes(rectangles, flips)
    cells = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    corner, extent = rectangles[..., :2, None], rectangles[..., 2:, None]
    low, high = corner.amax(0), (corner + extent).amin(0)
    places = low + (high - low) * cells  # (N, 2, 64)
    for view in range(2):
        seen = corner[view] + extent[view] * cells
        across, down = seen.unbind(1)
        across = torch.where(flips[view][:, None], across.flip(1), across)
        maps = torch.stack(
            [across[:, None].expand(-1, 64, -1), down[..., None].expand(-1, -1, 64)], dim=1
        )
        got = aligned_maps(maps, boxes[view], flips[view], present)
        # Beyond the centre of the last cell that cell is repeated.
        edge = extent[view] / 128
        expected = places.clamp(corner[view] + edge, corner[view] + extent[view] - edge)
        torch.testing.assert_close(got[present, 0, 5], expected[present, 0])
        torch.testing.assert_close(got[present, 1, :, 5], expected[present, 1])


def test_the_windows_are_those_of_the_paper():
    assert len(window_grid(224, 48, 32)) == 36
    assert len(window_grid(224, 32, 24)) == 64
    assert window_grid(96, 48, 32).tolist() == [
        [x, y, x + 48, y + 48] for y in (0, 32) for x in (0, 32)
    ]
    assert window_grid(64, 32, 32).tolist() == [[0, 0, 32, 32]]  # 32 + 32 is not below 64.
    assert window_grid(48, 48, 32).shape == (0, 4)


def test_carried_boxes_equal_a_loop_of_corners():
    rectangles, flips = draw(25, seed=3)
    windows = window_grid(224, 48, 32).double()
    carried = carried_boxes(windows, rectangles, flips, 224)
    got, contained = carried.tolist(), inside(carried, 224).tolist()
    (queries, keys), mirrored, corners = rectangles.tolist(), flips.tolist(), windows.tolist()
    for n, r in itertools.product(range(25), range(36)):
        ends = []
        (xq, yq, wq, hq), (xk, yk, wk, hk) = queries[n], keys[n]
        x0, y0, x1, y1 = corners[r]
        for x, y in ((x0, y0), (x1, y1)):
            x = 224 - x if mirrored[0][n] else x
            x = ((x * wq / 224 + xq) - xk) * 224 / wk
            ends.append((224 - x if mirrored[1][n] else x, ((y * hq / 224 + yq) - yk) * 224 / hk))
        expected = [min(p) for p in zip(*ends, strict=True)] + [
            max(p) for p in zip(*ends, strict=True)
        ]
        assert got[n][r] == pytest.approx(expected)
        assert contained[n][r] == (min(expected) >= 0 and max(expected) < 224)


def test_boxes_carried_there_and_back_are_the_same():
    rectangles, flips = draw(10, seed=4)
    windows = window_grid(224, 32, 24).double()
    there = carried_boxes(windows, rectangles, flips, 224)
    back = carried_boxes(there, rectangles.flip(0), flips.flip(0), 224)
    torch.testing.assert_close(back, windows.expand_as(back))


def test_a_shared_flip_is_a_mirrored_image():
    rectangles, _ = draw(10, seed=5)
    both, none = torch.ones(2, 10, dtype=torch.bool), torch.zeros(2, 10, dtype=torch.bool)
    mirrored = rectangles.clone()
    mirrored[..., 0] = 160 - rectangles[..., 0] - rectangles[..., 2]
    windows = window_grid(224, 48, 32).double()
    torch.testing.assert_close(
        carried_boxes(windows, rectangles, both, 224), carried_boxes(windows, mirrored, none, 224)
    )


def interpolant(cells, y: float, x: float) -> float:
    """Return the bilinear interpolant of a map ``(H, W)`` that is 0 beyond its border."""
    total = 0.0
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            total += value * max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
    return total


@pytest.mark.parametrize(
    "box", [(8, 8, 40, 24), (0, 0, 63, 63), (40, 30, 63.5, 63.9), (5, 5, 6, 7)]
)
def test_pooled_regions_equal_a_sum_of_many_samples(box):
    maps = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    got = pooled_regions(maps, torch.tensor([[box]], dtype=torch.float64), 1 / 16)
    x0, y0, x1, y1 = (value / 16 for value in box)
    steps = 120
    for channel, cells in enumerate(maps[0].tolist()):
        total = sum(
            interpolant(
                cells,
                y0 + (i + 0.5) * (y1 - y0) / steps,
                x0 + (j + 0.5) * (x1 - x0) / steps,
            )
            for i in range(steps)
            for j in range(steps)
        )
        assert got[0, 0, channel].item() == pytest.approx(total / steps**2, abs=2e-4)


def test_pooled_regions_of_a_plane_are_its_centre_and_agree_with_roi_align_inside():
    rows, columns = torch.meshgrid(*2 * (torch.arange(14.0).double(),), indexing="ij")
    maps = torch.stack([rows, columns])[None]
    windows = window_grid(224, 48, 32).double()[:25]  # Those whose lower edge lies in the map.
    windows = windows[(windows[:, 2:] <= 208).all(1)]
    got = pooled_regions(maps, windows[None], 1 / 16)[0]
    centre = (windows[:, :2] + windows[:, 2:]) / 32
    torch.testing.assert_close(got, centre.flip(1))
    noise = torch.randn(1, 3, 14, 14, dtype=torch.float64)
    boxes = torch.cat([torch.zeros(len(windows), 1), windows], dim=1)
    sampled = roi_align(noise, boxes, 1, 1 / 16, sampling_ratio=300, aligned=False)
    got = pooled_regions(noise, windows[None], 1 / 16)[0]
    torch.testing.assert_close(got, sampled.flatten(1), atol=1e-4, rtol=0)


def test_pooling_is_in_float32_under_autocast_and_its_gradient_is_right():
    maps = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[[3.0, 5, 40, 50], [0, 0, 20, 63]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: pooled_regions(m, boxes, 1 / 16), (maps,))
    low = maps.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got = pooled_regions(low, boxes, 1 / 16)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, pooled_regions(low.float(), boxes, 1 / 16))
