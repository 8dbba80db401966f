"""Pictures of training curves and results, as PNG and SVG."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mls_d2.engine.files import atomic_write
from mls_d2.report.curves import Curve, smooth
from mls_d2.report.groups import Group, Row, metric_label
from mls_d2.report.statistics import summarize

Curves = Mapping[str, Curve]
"""Metric name to curve, of one run."""

# Okabe & Ito, "Color universal design": told apart under all common colour deficiencies.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP*"
_RANDOM_COLOUR = "#6E6E6E"
_STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.alpha": 0.25,
    "svg.hashsalt": "mls_d2",
    "text.parse_math": False,
}
_PRETRAINING_PANELS = (
    ("loss_nce", "InfoNCE loss (nats)"),
    # Not loss_ml, which is weighted by lambda and zero while InfoNCE trains alone.
    ("multi_label_loss", "multi-label loss (nats per entry)"),
    ("nce_accuracy", "InfoNCE accuracy (share, 0 to 1)"),
    ("feature_std", "feature standard deviation (unit vectors)"),
)
_MAX_LABEL = 48
_TITLE_WIDTH = 110


def plot_group(
    group: Group, curves: Mapping[Path, Curves], *, title: str, stem: Path
) -> list[Path]:
    """Plot the training loss of every run beside the results they ended with.

    Args:
        group: the rows to plot.
        curves: path of a ``results.json`` to the curves of that run; runs may be absent.
        title: printed above.
        stem: the file to write, without ending.

    Returns:
        The files written: PNG and SVG.
    """
    styles = _styles(group.rows)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for row, style in zip(group.rows, styles, strict=True):
            for run in row.runs:
                loss = curves.get(run.path, {}).get("total_loss")
                if loss is not None:
                    _draw_curve(left, loss, style)
        _label_curve_panel(left, "total training loss (sum of all terms)")
        _draw_results(right, group, styles)
        figure.suptitle(textwrap.fill(title, _TITLE_WIDTH))
        _legend(figure, [row.label for row in group.rows], styles)
        return _save(figure, stem)


def plot_pretraining(runs: Mapping[str, Curves], *, title: str, stem: Path) -> list[Path]:
    """Plot losses, InfoNCE accuracy and feature spread of pretraining runs.

    Args:
        runs: label of a run to its curves.
        title: printed above.
        stem: the file to write, without ending.

    Returns:
        The files written: PNG and SVG.
    """
    styles = [_style(index) for index in range(len(runs))]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 7), layout="constrained")
        for axes, (metric, label) in zip(
            figure.subplots(2, 2).flat, _PRETRAINING_PANELS, strict=True
        ):
            for curves, style in zip(runs.values(), styles, strict=True):
                if metric in curves:
                    _draw_curve(axes, curves[metric], style)
            _label_curve_panel(axes, label)
        figure.suptitle(textwrap.fill(title, _TITLE_WIDTH))
        _legend(figure, list(runs), styles)
        return _save(figure, stem)


def _style(index: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": _LINES[index % len(_LINES)],
        "marker": _MARKERS[index % len(_MARKERS)],
    }


def _styles(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one style a row; random initialisation is always grey."""
    numbers = itertools.count()
    grey = {"color": _RANDOM_COLOUR, "linestyle": (0, (4, 1)), "marker": "X"}
    return [grey if row.first.method == "random" else _style(next(numbers)) for row in rows]


def _draw_curve(axes: Axes, curve: Curve, style: Mapping[str, Any]) -> None:
    line = {key: style[key] for key in ("color", "linestyle")}
    window = max(1, len(curve.values) // 25)
    if window > 1:
        axes.plot(curve.iterations, curve.values, color=style["color"], alpha=0.2, linewidth=0.8)
    # A single point would leave no line to see.
    marker = style["marker"] if len(curve.values) == 1 else None
    axes.plot(curve.iterations, smooth(curve.values, window), linewidth=1.6, marker=marker, **line)


def _label_curve_panel(axes: Axes, label: str) -> None:
    axes.set_xlabel("iteration")
    axes.set_ylabel(label)
    if not axes.lines:
        _say_not_logged(axes)


def _say_not_logged(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color="#555555")
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_results(axes: Axes, group: Group, styles: Sequence[Mapping[str, Any]]) -> None:
    """Draw every run as a point and the mean with its standard deviation as a bar beside it."""
    if not group.headline:
        _say_not_logged(axes)
        return
    step = 0.8 / len(group.rows)
    for place, metric in enumerate(group.headline):
        for index, (row, style) in enumerate(zip(group.rows, styles, strict=True)):
            x = place - 0.4 + (index + 0.5) * step
            values = np.array([value for _, value in row.values(metric)])
            places = np.full(len(values), x - 0.15 * step)
            axes.plot(places, values, style["marker"], color=style["color"], alpha=0.6)
            summary = summarize(values.tolist())
            error = summary.std if math.isfinite(summary.std) else 0.0
            axes.errorbar(
                x + 0.15 * step,
                summary.mean,
                error,
                fmt="_",
                color=style["color"],
                markersize=16,
                capsize=4,
            )
            if math.isfinite(summary.mean):
                top = max(np.nanmax(values), summary.mean + error)
                axes.annotate(
                    f"{summary.mean:.1f}",
                    (x, top),
                    xytext=(0, 7),
                    textcoords="offset points",
                    ha="center",
                )
    axes.set_xticks(range(len(group.headline)), [metric_label(name) for name in group.headline])
    axes.set_xlim(-0.5, len(group.headline) - 0.5)
    axes.set_ylabel("percent")
    axes.set_title("points: runs; bars: mean ± standard deviation", fontsize=9)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.15)


def _legend(figure: Figure, labels: Sequence[str], styles: Sequence[Mapping[str, Any]]) -> None:
    handles = [mpl.lines.Line2D([], [], linewidth=1.6, markersize=6, **style) for style in styles]
    short = [item if len(item) <= _MAX_LABEL else f"{item[: _MAX_LABEL - 3]}..." for item in labels]
    columns = max(1, min(len(labels), 110 // (max(map(len, short), default=0) + 12)))
    figure.legend(handles, short, loc="outside lower center", ncols=columns, frameon=False)


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    for path in paths:
        kind = path.suffix[1:]
        metadata = {"Date": None} if kind == "svg" else None
        with atomic_write(str(path)) as file:
            figure.savefig(file, format=kind, dpi=150, metadata=metadata)
    return paths
