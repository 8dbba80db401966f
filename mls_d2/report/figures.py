"""Figures 3 to 5 of the MLS paper (arXiv 2308.03286), drawn from numbers and images."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mls_d2.config.recipes import pretraining_recipe
from mls_d2.core.files import atomic_write
from mls_d2.report.groups import Group, MethodRow, metric_label
from mls_d2.report.plots import RC, line_style, save_svg
from mls_d2.report.statistics import summarize

FIGURES_FOLDER = "figures"  # of a run
SCORES_FILE, NEIGHBOURS_FILE = "figure3.svg", "figure4.jpg"
BINS = 64
RED, YELLOW = (220, 30, 30), (255, 215, 0)

# Config key of the pretraining to the label of the axis of Figure 5.
_SWEPT = {"MOCO.DICTIONARY_SIZE": "dictionary size D", "MLS.LAMBDA": "weight λ"}
_TILE = 120  # pixels: the longer side of an image in Figure 4
_FRAME = 3  # pixels: the width of a rectangle's line
_DPI = 100


@dataclasses.dataclass(frozen=True)
class Marked:
    """An image with the crop that was taken from it.

    Attributes:
        image: ``(H, W, 3)`` uint8, RGB, the whole image.
        rectangle: x, y, width, height of the crop in pixels of ``image``.
        title: printed above.
    """

    image: np.ndarray
    rectangle: Sequence[float]
    title: str


def shared_histograms(
    scores: Mapping[str, np.ndarray], bins: int = BINS
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Count scores in equal bins over their common range.

    Args:
        scores: by name, ``(D,)`` each; not all of one value.
        bins: how many.

    Returns:
        The edges ``(bins + 1,)``, and by name the counts ``(bins,)``. A bin includes its lower
        edge, the last one both.
    """
    every = np.concatenate(list(scores.values()))
    edges = np.linspace(every.min(), every.max(), bins + 1)
    return edges, {name: np.histogram(values, edges)[0] for name, values in scores.items()}


def plot_scores(scores: Mapping[str, Mapping[str, np.ndarray]], *, title: str, path: Path) -> None:
    """Draw Figure 3: how the scores of one query are distributed, before and after training.

    Args:
        scores: name of a score, one column, to ``{"before": (D,), "after": (D,)}``, cosines.
        title: printed above.
        path: the SVG to write.
    """
    with mpl.rc_context(RC):
        figure = Figure(figsize=(9, 5.6))
        panels = figure.subplots(2, len(scores), squeeze=False, sharex="col")
        for column, (name, by_time) in enumerate(scores.items()):
            edges, counts = shared_histograms(by_time)
            for row, (time, values) in enumerate(by_time.items()):
                axes = panels[row, column]
                density = counts[time] / (len(values) * np.diff(edges))
                axes.stairs(
                    density, edges, fill=True, color=line_style(column)["color"], alpha=0.75
                )
                spread = f"mean {values.mean():.3f}, std {values.std():.3f}"
                axes.set_title(f"{name}, {time} training: {spread}", fontsize=9)
            panels[1, column].set_xlabel("cosine with a row of the dictionary")
        for axes in panels[:, 0]:
            axes.set_ylabel("density")
        figure.suptitle(title, y=0.985, fontsize=10)
        figure.subplots_adjust(0.075, 0.09, 0.985, 0.89, wspace=0.16, hspace=0.25)
        save_svg(figure, path)


def framed(
    image: np.ndarray, rectangle: Sequence[float], colour: tuple[int, int, int], side: int
) -> np.ndarray:
    """Return an image whose longer side is ``side``, with a frame just inside a rectangle.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        rectangle: x, y, width, height in pixels of ``image``.
        colour: RGB.
        side: pixels.
    """
    factor = side / max(image.shape[:2])
    height, width = (max(1, round(length * factor)) for length in image.shape[:2])
    smaller = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    drawn = cv2.resize(image, (width, height), interpolation=smaller)
    x, y, w, h = rectangle
    across, down = width / image.shape[1], height / image.shape[0]
    left, right = round(x * across), round((x + w) * across)
    top, bottom = round(y * down), round((y + h) * down)
    outer = np.zeros((height, width), bool)
    outer[top:bottom, left:right] = True
    outer[top + _FRAME : bottom - _FRAME, left + _FRAME : right - _FRAME] = False
    drawn[outer] = colour
    return drawn


def plot_neighbours(
    queries: Sequence[tuple[Marked, Sequence[Marked]]], *, title: str, path: Path
) -> None:
    """Draw Figure 4: query crops in red, and beside each its nearest crops in yellow.

    Args:
        queries: each with its neighbours, nearest first, equally many; two fill a row.
        title: printed above.
        path: the JPEG to write.
    """
    columns = 1 + len(queries[0][1])
    rows, cell, gap, head = math.ceil(len(queries) / 2), _TILE + 8, 24, 34
    width = 2 * columns * cell + gap
    row_height = _TILE + 26
    height = head + rows * row_height + 6
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    figure.text(0.5, 1 - head / 2 / height, title, ha="center", va="center", fontsize=11)
    for number, (query, found) in enumerate(queries):
        row, half = divmod(number, 2)
        for column, item in enumerate((query, *found)):
            tile = framed(item.image, item.rectangle, YELLOW if column else RED, _TILE)
            left = half * (columns * cell + gap) + column * cell + (cell - tile.shape[1]) // 2
            top = head + row * row_height + 20
            figure.figimage(tile, left, height - top - tile.shape[0])
            centre = half * (columns * cell + gap) + (column + 0.5) * cell
            place = (centre / width, 1 - (top - 4) / height)
            figure.text(*place, item.title, ha="center", va="bottom", fontsize=8.5)
    with atomic_write(str(path)) as file:
        figure.savefig(file, format="jpg", pil_kwargs={"quality": 65, "subsampling": 0})


def sweeps(group: Group) -> dict[str, list[tuple[float, MethodRow]]]:
    """Return the rows of MLS that differ in D alone, and those that differ in λ alone.

    Returns:
        By config key the (value, row) pairs, values rising: of the recipe with the most values.
        Keys with fewer than two values are missing.
    """
    found = {}
    for key in _SWEPT:
        families: dict[frozenset[tuple[str, str]], dict[float, MethodRow]] = defaultdict(dict)
        for row in () if group.mixed else group.of_method("mls"):
            recipe = dict(pretraining_recipe(str(row.first.backbone.info.get("config", "{}"))))
            value = recipe.pop(key, None)
            if value is not None:
                families[frozenset(recipe.items())][float(value)] = row
        widest = max(families.values(), key=len, default={})
        if len(widest) > 1:
            found[key] = sorted(widest.items())
    return found


def plot_sweeps(group: Group, path: Path) -> bool:
    """Draw Figure 5, AP against D and against λ, and return True; False if nothing is swept.

    Bars are sample standard deviations. The dashed line is MoCo-v2, if the group has one row of it.
    """
    swept = sweeps(group)
    if not swept:
        return False
    baseline = group.row("mocov2")
    with mpl.rc_context(RC):
        figure = Figure(figsize=(4.6 * len(swept), 4.2))
        panels = figure.subplots(1, len(swept), squeeze=False)[0]
        for axes, (key, pairs) in zip(panels, swept.items(), strict=True):
            for number, metric in enumerate(group.headline):
                look = line_style(number) | {"linestyle": "-"}
                label = metric_label(metric)
                values, rows = zip(*pairs, strict=True)
                points = [summarize([v for _, v in row.values(metric)]) for row in rows]
                errors = np.nan_to_num([point.std for point in points])
                means = [point.mean for point in points]
                axes.errorbar(values, means, errors, capsize=3, label=label, **look)
                if baseline is not None:
                    level = summarize([v for _, v in baseline.values(metric)]).mean
                    name = f"{label}, MoCo-v2"
                    axes.axhline(level, color=look["color"], linestyle="--", label=name)
            if key == "MOCO.DICTIONARY_SIZE":
                axes.set_xscale("log", base=2)
                axes.set_xticks(values, [f"{value:g}" for value in values])
                axes.minorticks_off()
            axes.set_xlabel(_SWEPT[key])
            axes.set_ylabel("percent")
            axes.margins(y=0.2)
        figure.suptitle(group.title, y=0.98, fontsize=10)
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="lower center", ncols=4, frameon=False
        )
        figure.subplots_adjust(0.62 / (4.6 * len(swept)), 0.2, 0.985, 0.91, wspace=0.22)
        save_svg(figure, path)
    return True
