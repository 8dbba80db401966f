"""Draws the figure of MLS: python docs/images/method.py writes method.svg and method.png."""

from __future__ import annotations

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
    figure, axes = plt.subplots(figsize=(10, 4.1))
    axes.set(xlim=(0, 12.2), ylim=(-0.6, 4.2))
    axes.axis("off")
    box(axes, 0.8, 3.1, "view 1", GREY)
    box(axes, 0.8, 0.5, "view 2", GREY)
    box(axes, 3.0, 3.1, "backbone φ", BLUE)
    box(axes, 5.4, 3.1, "projector f", BLUE)
    box(axes, 3.0, 0.5, "φᵐ", GREY)
    box(axes, 5.4, 0.5, "fᵐ", GREY)
    arrow(axes, (1.45, 3.1), (2.35, 3.1))
    arrow(axes, (1.45, 0.5), (2.35, 0.5))
    arrow(axes, (3.65, 3.1), (4.75, 3.1), "$g_1$", BLUE)
    arrow(axes, (3.65, 0.5), (4.75, 0.5), "$g_2$", GREY)
    arrow(axes, (3.0, 2.75), (3.0, 0.85), colour=GREY)
    axes.text(3.1, 1.8, "EMA, m", fontsize=10, color=GREY, va="center")
    table(axes, 6.7, 1.8, "$Q_g$: features of earlier keys", RED, (1, 4, 5))
    table(axes, 9.6, 1.8, "$Q_z$: their embeddings", GREEN, (1, 4, 5))
    arrow(axes, (4.0, 3.0), (6.65, 1.95), "", RED)
    axes.text(5.1, 2.05, "k nearest: labels y (Eq. 7)", fontsize=10.5, color=RED, ha="center")
    arrow(axes, (8.35, 1.8), (9.55, 1.8), "same rows", "#1a202c")
    arrow(axes, (6.05, 3.1), (8.0, 3.1), "$z_1$", BLUE)
    arrow(axes, (6.05, 0.5), (8.0, 0.5), "$z_2$", GREY)
    box(axes, 8.9, 3.6, r"$L_{ml}$: BCE of $z_1 Q_z^\top/\tau$ with y (Eqs. 8, 9)", GREEN, 4.1)
    box(axes, 8.9, 0.5, r"$L_{nce}$: $z_1$ finds $z_2$ among $Q_z$ (MoCo-v2)", GREY, 4.1)
    arrow(axes, (10.4, 2.05), (10.0, 3.25), "", GREEN)
    arrow(axes, (10.4, 1.2), (10.0, 0.85), "", GREY)
    axes.text(11.35, 2.75, r"$L = L_{nce} + \lambda L_{ml}$", fontsize=11.5, ha="center")
    folder = Path(__file__).parent
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"method.{suffix}", bbox_inches="tight", dpi=130)


if __name__ == "__main__":
    main()
