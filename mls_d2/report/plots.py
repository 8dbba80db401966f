"""Pictures of training curves and results, as SVG."""

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

from mls_d2.core.files import atomic_write
from mls_d2.report.curves import Curve, Curves, smooth
from mls_d2.report.groups import Group, metric_label
from mls_d2.report.statistics import summarize

LOSS = "total_loss"
"""The metric of fine-tuning that is plotted."""

Style = Mapping[str, Any]

# Okabe & Ito, "Color universal design": distinct under all common colour deficiencies.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP*"
_RANDOM_STYLE = {"color": "#6E6E6E", "linestyle": (0, (4, 1)), "marker": "X"}
RC: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",  # text stays text: smaller, faster, and can be searched for
    "svg.hashsalt": "mls_d2",
    "text.parse_math": False,
}
_PRETRAINING_PANELS = {
    "total_loss": "total loss (sum of all terms)",
    "loss_nce": "InfoNCE loss (nats)",
    # Not loss_ml, which is weighted by lambda and zero while InfoNCE trains alone.
    "multi_label_loss": "multi-label loss (nats per entry)",
    "nce_accuracy": "InfoNCE accuracy (share, 0 to 1)",
    "positive_similarity": "mean cosine of positives (-1 to 1)",
    "feature_std": "feature std (unit vectors)",
}
_MAX_LABEL = 48
_TITLE_WIDTH = 110
_WIDTH = 11.0  # inches
_MAX_TICKS = 6
_MAX_NUMBERED = 6  # rows: numbers above more would overlap


def plot_group(group: Group, curves: Mapping[Path, Curves], *, title: str, path: Path) -> None:
    """Plot the training loss of every run, if any logged it, beside the results they ended with.

    Args:
        group: the rows to plot.
        curves: path of a ``results.json`` to the curves of that run; runs may be absent.
        title: printed above.
        path: the SVG to write.
    """
    numbers = itertools.count()
    styles = [
        _RANDOM_STYLE if row.first.method == "random" else line_style(next(numbers))
        for row in group.rows
    ]
    found = [[curves.get(run.path, {}).get(LOSS) for run in row.runs] for row in group.rows]
    losses = [[loss for loss in row if loss is not None] for row in found]
    ratios = (3, 2) if any(losses) else (1,)
    with mpl.rc_context(RC):
        labels = [row.label for row in group.rows]
        figure, panels = _figure(4.6, (1, len(ratios)), title, labels, styles, width_ratios=ratios)
        *left, right = panels.flat
        for axes in left:
            for row, style in zip(losses, styles, strict=True):
                _draw_curves(axes, row, style)
            _label_curves(axes, "total training loss (sum of all terms)")
        _draw_results(right, group, styles)
        save_svg(figure, path)


def plot_pretraining(runs: Mapping[str, Curves], *, title: str, path: Path) -> None:
    """Plot losses, InfoNCE accuracy, similarity and feature spread of pretraining runs.

    Args:
        runs: label of a run to its curves; a quantity that none of them has gets no panel.
        title: printed above.
        path: the SVG to write.
    """
    styles = [line_style(index) for index in range(len(runs))]
    shown = [
        (metric, label)
        for metric, label in _PRETRAINING_PANELS.items()
        if any(metric in curves for curves in runs.values())
    ]
    lines = math.ceil(len(shown) / 2)
    with mpl.rc_context(RC):
        figure, panels = _figure(3.5 * lines, (lines, 2), title, list(runs), styles)
        for axes in panels.flat[len(shown) :]:
            axes.set_axis_off()
        for axes, (metric, label) in zip(panels.flat, shown, strict=False):
            for curves, style in zip(runs.values(), styles, strict=True):
                _draw_curves(axes, [curves[metric]] if metric in curves else [], style)
            _label_curves(axes, label)
        save_svg(figure, path)


def _figure(
    height: float,
    shape: tuple[int, int],
    title: str,
    labels: Sequence[str],
    styles: Sequence[Style],
    **ratios: Sequence[float],
) -> tuple[Figure, np.ndarray]:
    """Return a figure of ``height`` inches, without title and legend, and its panels.

    Margins are set by hand: a layout engine draws everything several times to find them.
    """
    lines = textwrap.wrap(title, _TITLE_WIDTH)
    short = [item if len(item) <= _MAX_LABEL else f"{item[: _MAX_LABEL - 3]}..." for item in labels]
    columns = max(1, min(len(short), 110 // (max(map(len, short), default=0) + 12)))
    above = 0.35 + 0.2 * len(lines)
    below = 0.65 + 0.22 * math.ceil(len(short) / columns)
    total = height + above + below - 1.2
    figure = Figure(figsize=(_WIDTH, total))
    panels = figure.subplots(*shape, squeeze=False, gridspec_kw=ratios)
    for axes in panels.flat:
        axes.locator_params(nbins=_MAX_TICKS)
    margins = {"left": 0.75 / _WIDTH, "right": 1 - 0.15 / _WIDTH, "bottom": below / total}
    figure.subplots_adjust(**margins, top=1 - above / total, wspace=0.2, hspace=0.25)
    figure.suptitle("\n".join(lines), y=1 - 0.08 / total, va="top")
    handles = [mpl.lines.Line2D([], [], linewidth=1.6, markersize=6, **style) for style in styles]
    figure.legend(handles, short, loc="lower center", ncols=columns, frameon=False)
    return figure, panels


def line_style(index: int) -> dict[str, Any]:
    """Return colour, line and marker of the row ``index`` of a picture."""
    styles = {"color": _COLOURS, "linestyle": _LINES, "marker": _MARKERS}
    return {name: values[index % len(values)] for name, values in styles.items()}


def _draw_curves(axes: Axes, curves: Sequence[Curve], style: Style) -> None:
    """Draw the smoothed curves of one row, and the raw curve too if there is only one."""
    smoothed = [smooth(curve.values, max(1, len(curve.values) // 25)) for curve in curves]
    if len(curves) == 1 and len(curves[0].values) >= 50:
        (curve,) = curves
        axes.plot(curve.iterations, curve.values, color=style["color"], alpha=0.2, linewidth=0.8)
    if curves:
        # One line for all, with gaps: a line of its own for each run takes much longer to draw.
        x = np.concatenate([np.append(curve.iterations, np.nan) for curve in curves])
        y = np.concatenate([np.append(values, np.nan) for values in smoothed])
        # A single point would leave no line to see.
        marker = style["marker"] if min(len(curve.values) for curve in curves) == 1 else None
        axes.plot(x, y, linewidth=1.6, **{**style, "marker": marker})


def _label_curves(axes: Axes, label: str) -> None:
    axes.set_xlabel("iteration")
    axes.set_ylabel(label)


def _draw_results(axes: Axes, group: Group, styles: Sequence[Style]) -> None:
    """Draw every run as a point and the mean with its standard deviation as a bar beside it."""
    if not group.headline:
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color="#555555")
        axes.set_xticks([])
        axes.set_yticks([])
        return
    step = 0.8 / len(group.rows)
    for index, (row, style) in enumerate(zip(group.rows, styles, strict=True)):
        x = np.arange(len(group.headline)) - 0.4 + (index + 0.5) * step
        runs = np.array([[value for _, value in row.values(name)] for name in group.headline])
        summaries = [summarize(values) for values in runs.tolist()]
        mean = np.array([summary.mean for summary in summaries])
        error = np.nan_to_num([summary.std for summary in summaries])
        places = np.repeat(x - 0.15 * step, runs.shape[1])
        axes.plot(places, runs.ravel(), style["marker"], color=style["color"], alpha=0.6)
        axes.errorbar(x + 0.15 * step, mean, error, fmt="_", color=style["color"], markersize=16)
        tops = np.fmax(np.fmax.reduce(runs, axis=1), mean + error)
        for place, value, top in zip(x, mean, tops, strict=True):
            if len(group.rows) <= _MAX_NUMBERED and math.isfinite(value):
                offset: Any = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
                axes.annotate(f"{value:.1f}", (place, top), **offset)
    axes.set_xticks(range(len(group.headline)), [metric_label(name) for name in group.headline])
    axes.set_xlim(-0.5, len(group.headline) - 0.5)
    axes.set_ylabel("percent")
    axes.set_title("points: runs; bars: mean ± standard deviation", fontsize=9)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.15)


def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure, atomically and without a date."""
    # Only this format: drawing a picture twice would take longer than all the rest of a report.
    with atomic_write(str(path)) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
