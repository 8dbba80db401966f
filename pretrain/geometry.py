"""Where cells and regions of two views lie: distances, overlaps, carried boxes, pooling.

Shape legend: N images, two views of each; S × S cells of a map, P = S² of them, row by row; R boxes
per image; C channels. Rectangles are x, y, width and height in pixels of the image, flips whether a
view was mirrored along x after the cut (:class:`pretrain.batch.Batch`). Boxes are x0, y0, x1, y1.

Pooling is two products with matrices of weights, one along each axis, since boxes are aligned with
the axes: the gradient is added in a fixed order, as that of RoIAlign on a GPU is not.
"""

import torch
from torch import Tensor

from pretrain.numerics import wide


def view_frames(rectangles: Tensor, flips: Tensor, image_sizes: Tensor) -> Tensor:
    """Return the corners of views in the unit square of their image.

    A view covers the pixels x to x + w - 1 of 0 to W - 1; a mirrored one has x0 > x1.

    Args:
        rectangles: ``(V, N, 4)``.
        flips: ``(V, N)`` bool.
        image_sizes: ``(N, 2)`` height and width.

    Returns:
        ``(V, N, 4)`` x0, y0, x1, y1, float32 at least.

    Source: PixPro's code (zdaxie/PixPro, contrast/data/transform.py at e390d6b).
    """
    x, y, width, height = wide(rectangles).unbind(dim=-1)
    down, across = (image_sizes.to(x.dtype) - 1).clamp_min(1).unbind(dim=-1)
    left, right = x / across, (x + width - 1) / across
    first, last = torch.where(flips, right, left), torch.where(flips, left, right)
    return torch.stack([first, y / down, last, (y + height - 1) / down], dim=-1)


def cell_distances(rectangles: Tensor, flips: Tensor, image_sizes: Tensor, side: int) -> Tensor:
    """Return how far each cell of the first view's map lies from each cell of the second's.

    ``‖c_i - c'_j‖ / max(δ, δ')``: c are centres of cells in the unit square of the image, δ is the
    diagonal of a cell of one view. So x and y have different units in an image that is no square.

    Args:
        rectangles: ``(2, N, 4)``.
        flips: ``(2, N)`` bool.
        image_sizes: ``(N, 2)`` height and width.
        side: S.

    Returns:
        ``(N, P, P)``; rows are cells of the first view. The other order is its transpose.

    Source: PixPro (arXiv 2011.10043), section 3.1, with the coordinates of its code.
    """
    if side < 1 or len(rectangles) != 2:
        raise ValueError(f"expected two views and a side >= 1, got {len(rectangles)} and {side}")
    frames = view_frames(rectangles, flips, image_sizes)
    start, extent = frames[..., :2], (frames[..., 2:] - frames[..., :2]) / side
    steps = torch.arange(side, device=frames.device, dtype=frames.dtype) + 0.5
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).flatten(0, 1)
    centres = start.unsqueeze(2) + grid * extent.unsqueeze(2)  # (2, N, P, 2)
    distance = (centres[0].unsqueeze(2) - centres[1].unsqueeze(1)).square().sum(dim=-1).sqrt()
    diagonal = extent.square().sum(dim=-1).sqrt().amax(dim=0)
    return distance / diagonal.clamp_min(torch.finfo(diagonal.dtype).tiny)[:, None, None]


def overlap_boxes(rectangles: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each of two views shows what both show.

    Args:
        rectangles: ``(2, N, 4)``.
        flips: ``(2, N)`` bool.

    Returns:
        ``(2, N, 4)`` the common rectangle in shares of each view as it was mirrored, in [0, 1] if
        the views overlap; and ``(N,)`` bool, whether they do.

    Source: SlotCon's code (CVMI-Lab/SlotCon, data/transforms.py at 30ff33d).
    """
    rectangles = wide(rectangles)
    corner, extent = rectangles[..., :2], rectangles[..., 2:]
    low, high = corner.amax(dim=0), (corner + extent).amin(dim=0)
    start, end = (low - corner) / extent, (high - corner) / extent
    x0, y0, x1, y1 = *start.unbind(dim=-1), *end.unbind(dim=-1)
    left, right = torch.where(flips, 1 - x1, x0), torch.where(flips, 1 - x0, x1)
    return torch.stack([left, y0, right, y1], dim=-1), (high > low).all(dim=-1)


def aligned_maps(maps: Tensor, boxes: Tensor, flips: Tensor, present: Tensor) -> Tensor:
    """Return maps of the same size of a box alone, as if the views had not been mirrored.

    Each cell of the result is the bilinear interpolant at one point, its centre: RoIAlign with
    ``aligned=True``, which takes one sample per cell because no box is larger than the map.

    Args:
        maps: ``(N, C, S, S)``.
        boxes: ``(N, 4)`` in shares of the view, as :func:`overlap_boxes` returns.
        flips: ``(N,)`` bool.
        present: ``(N,)`` bool; without a box the result is 0.

    Returns:
        ``(N, C, S, S)``, float32 at least, with gradient.
    """
    maps, side = wide(maps), maps.shape[-1]
    cells = torch.arange(side, device=maps.device, dtype=maps.dtype)
    corners = boxes.to(maps.dtype).unsqueeze(-1)
    shares = (cells + 0.5) / side

    def weights(low: Tensor, high: Tensor) -> Tensor:
        points = ((low + shares * (high - low)) * side - 0.5).clamp(0, side - 1)  # (N, S)
        return (1 - (points.unsqueeze(-1) - cells).abs()).clamp_min(0) * present[:, None, None]

    rows = weights(corners[:, 1], corners[:, 3])
    columns = weights(corners[:, 0], corners[:, 2])
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    with torch.autocast(maps.device.type, enabled=False):
        return torch.einsum("nis,ncst,njt->ncij", rows, maps, columns)


def window_grid(size: int, side: int, stride: int, *, device: torch.device | None = None) -> Tensor:
    """Return the square windows of a view, row by row: ``(R, 4)`` in pixels.

    Args:
        size: side of the view; right and lower edges of windows lie below it.
        side: of the windows.
        stride: distance of neighbours.
        device: of the result.

    Source: ReSim (arXiv 2103.12902), section 3, with the bound of its code.
    """
    starts = torch.arange(0, max(size - side, 0), stride, device=device, dtype=torch.float32)
    y, x = torch.meshgrid(starts, starts, indexing="ij")
    corner = torch.stack([x, y], dim=-1).flatten(0, 1)
    return torch.cat([corner, corner + side], dim=1)


def carried_boxes(boxes: Tensor, rectangles: Tensor, flips: Tensor, size: int) -> Tensor:
    """Return where the second view shows what boxes of the first one show.

    Args:
        boxes: ``(R, 4)`` or ``(N, R, 4)`` in pixels of the first view.
        rectangles: ``(2, N, 4)``.
        flips: ``(2, N)`` bool.
        size: side of both views in pixels.

    Returns:
        ``(N, R, 4)`` in pixels of the second view, x0 <= x1; :func:`inside` says which to use.
    """
    rectangles = wide(rectangles).unsqueeze(2)
    corner, scale = rectangles[..., :2], rectangles[..., 2:] / size
    mirrored = torch.stack([flips, torch.zeros_like(flips)], dim=-1).unsqueeze(2)  # of x, of y
    ends = []
    for end in boxes.to(rectangles.dtype).expand(rectangles.shape[1], -1, 4).split(2, dim=-1):
        place = corner[0] + torch.where(mirrored[0], size - end, end) * scale[0]
        shown = (place - corner[1]) / scale[1]
        ends.append(torch.where(mirrored[1], size - shown, shown))
    return torch.cat([torch.minimum(*ends), torch.maximum(*ends)], dim=-1)


def inside(boxes: Tensor, size: int) -> Tensor:
    """Return which of ``(…, 4)`` boxes lie wholly in a view: 0 <= x0, y0 and x1, y1 < ``size``."""
    return (boxes[..., :2] >= 0).all(dim=-1) & (boxes[..., 2:] < size).all(dim=-1)


def pooled_regions(maps: Tensor, boxes: Tensor, scale: float) -> Tensor:
    """Return the exact mean over each box of the bilinear interpolant of a map.

    Cell i lies at coordinate i, and the map is 0 beyond its border: a box that touches the right or
    lower border of the view takes zeros in. RoIAlign averages samples instead and repeats the
    border.

    Args:
        maps: ``(N, C, H, W)``.
        boxes: ``(N, R, 4)`` in pixels of the view, x0 < x1 and y0 < y1.
        scale: cells per pixel.

    Returns:
        ``(N, R, C)``, float32 at least, with gradient with respect to the map.

    Source: precise RoI pooling (IoU-Net, arXiv 1807.11590), as ReSim uses it.
    """
    maps = wide(maps)
    height, width = maps.shape[2:]
    x0, y0, x1, y1 = (boxes.to(maps.dtype) * scale).unbind(dim=-1)
    columns, rows = _mean_weights(x0, x1, width), _mean_weights(y0, y1, height)
    with torch.autocast(maps.device.type, enabled=False):
        return torch.einsum("nrh,nchw,nrw->nrc", rows, maps, columns)


def aligned_regions(maps: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """Return maps of boxes: RoIAlign with ``aligned=True`` and as many samples as a cell needs.

    Args:
        maps: ``(N, C, H, W)``.
        boxes: ``(N, R, 4)`` x0, y0, x1, y1 in shares of the view, in [0, 1].
        cells: along each side of the result.

    Returns:
        ``(N, R, C, cells, cells)``, float32 at least, with gradient with respect to the map.

    Source: Mask R-CNN (arXiv 1703.06870), section 3, as in torchvision's ``roi_align``.
    """
    maps = wide(maps)
    x0, y0, x1, y1 = boxes.to(maps.dtype).unbind(dim=-1)
    rows = _sampled_weights(y0, y1, cells, maps.shape[2])
    columns = _sampled_weights(x0, x1, cells, maps.shape[3])
    with torch.autocast(maps.device.type, enabled=False):
        return torch.einsum("nrih,nchw,nrjw->nrcij", rows, maps, columns)


def _sampled_weights(low: Tensor, high: Tensor, cells: int, count: int) -> Tensor:
    """Return ``(N, R, cells, count)``: how much each position of a map adds to a cell's mean."""
    start, extent = (low * count - 0.5)[..., None, None], ((high - low) * count)[..., None, None]
    most = -(-count // cells)
    samples = (extent / cells).ceil().clamp(1, most)
    steps = torch.arange(most, device=low.device, dtype=low.dtype)
    cell = torch.arange(cells, device=low.device, dtype=low.dtype).unsqueeze(1)
    points = start + (cell + (steps + 0.5) / samples) * extent / cells  # (N, R, cells, most)
    places = torch.arange(count, device=low.device, dtype=low.dtype)
    hats = (1 - (points.clamp(0, count - 1).unsqueeze(-1) - places).abs()).clamp_min(0)
    return (hats * (steps < samples).unsqueeze(-1)).sum(dim=-2) / samples


def _mean_weights(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Return ``(N, R, count)``: how much each cell adds to the mean over [low, high]."""
    cells = torch.arange(count, device=low.device, dtype=low.dtype)
    part = _hat_integral(high.unsqueeze(-1) - cells) - _hat_integral(low.unsqueeze(-1) - cells)
    return part / (high - low).clamp_min(torch.finfo(low.dtype).eps).unsqueeze(-1)


def _hat_integral(end: Tensor) -> Tensor:
    """Return ∫ max(0, 1 - |t|) dt from -∞ to ``end``."""
    end = end.clamp(-1, 1)
    return 0.5 + end - 0.5 * end * end.abs()
