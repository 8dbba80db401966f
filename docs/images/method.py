"""Draws the figure of MLS: python docs/images/method.py writes method.svg."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

BLUE, GREY, RED, GREEN = "#2b6cb0", "#718096", "#c05621", "#2f855a"


def box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 1.25) -> None:
    """Draw a labelled box centred at (x, y)."""
    patch = FancyBboxPatch((x - width / 2, y - 0.3), width, 0.6, boxstyle="round,pad=0.02")
    patch.set(facecolor="white", edgecolor=colour, linewidth=1.6)
    axes.add_patch(patch)
    axes.text(x, y, text, ha="center", va="center", fontsize=11, color="#1a202c")


def arrow(axes: Axes, start: tuple, end: tuple, text: str = "", colour: str = "#1a202c") -> None:
    """Draw an arrow with a label above its middle."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=colour))
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.13
    axes.text(*middle, text, ha="center", va="bottom", fontsize=10.5, color=colour)


def table(axes: Axes, x: float, y: float, name: str, colour: str, marks: tuple[int, ...]) -> None:
    """Draw a dictionary as a row of cells; the marked ones are filled."""
    for cell in range(8):
        left = x + 0.2 * cell
        fill = colour if cell in marks else "white"
        axes.add_patch(Rectangle((left, y - 0.2), 0.2, 0.4, facecolor=fill, edgecolor=colour))
    axes.text(x + 0.8, y - 0.42, name, ha="center", va="center", fontsize=10.5, color=colour)


def main() -> None:
    """Draw the figure."""
    figure, axes = plt.subplots(figsize=(11, 4.2))
    axes.set(xlim=(0, 14.2), ylim=(-0.1, 4.1))
    axes.axis("off")
    top, low, middle = 3.4, 0.5, 1.95
    box(axes, 0.8, top, "view 1", GREY)
    box(axes, 0.8, low, "view 2", GREY)
    box(axes, 3.1, top, "backbone φ", BLUE, 1.6)
    box(axes, 5.7, top, "projector f", BLUE, 1.6)
    box(axes, 3.1, low, "φᵐ", GREY, 1.6)
    box(axes, 5.7, low, "fᵐ", GREY, 1.6)
    for height, colour, view in ((top, BLUE, 1), (low, GREY, 2)):
        arrow(axes, (1.45, height), (2.28, height))
        arrow(axes, (3.92, height), (4.88, height), f"$g_{view}$", colour)
        arrow(axes, (6.52, height), (8.38, height), f"$z_{view}$", colour)
    arrow(axes, (3.1, 3.06), (3.1, 0.84), colour=GREY)
    axes.text(3.0, middle, "EMA, m", fontsize=10.5, color=GREY, va="center", ha="right")
    table(axes, 7.0, middle, "$Q_g$: features of earlier keys", RED, (1, 4, 5))
    table(axes, 11.0, middle, "$Q_z$: their embeddings", GREEN, (1, 4, 5))
    arrow(axes, (4.4, 3.35), (6.95, 2.1), "", RED)
    axes.text(5.35, 2.2, "k nearest rows:\nlabels y (Eq. 7)", fontsize=10.5, color=RED, ha="right")
    arrow(axes, (8.65, middle), (10.95, middle), "the same rows", "#1a202c")
    box(axes, 11.0, top, r"$L_{ml}$: BCE of $z_1 Q_z^\top/\tau$ with y (Eqs. 8, 9)", GREEN, 5.2)
    box(axes, 11.0, low, r"$L_{nce}$: $z_1$ finds $z_2$ among $Q_z$ (MoCo-v2)", GREY, 5.2)
    arrow(axes, (11.8, 2.2), (11.8, 3.06), "", GREEN)
    arrow(axes, (11.8, 1.36), (11.8, 0.84), "", GREY)
    axes.text(12.1, 2.65, r"$L = L_{nce} + \lambda L_{ml}$", fontsize=11.5, ha="left", va="center")
    plt.rcParams["svg.hashsalt"] = "mls_d2"
    path = Path(__file__).with_suffix(".svg")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
