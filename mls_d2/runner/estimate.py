"""The cost of a plan before it is paid, as a table."""

from collections import Counter
from collections.abc import Callable, Sequence

from mls_d2.core.errors import UserError
from mls_d2.run.cost import GB, GPUS, UTILISATION, Gpu, RunCost
from mls_d2.runner.cells import CONVERT, Cell
from mls_d2.runner.text import aligned

CostOf = Callable[[Cell], RunCost]
# What a GPU needs beside the tensors: CUDA's context, in bytes, and gaps between them.
_CONTEXT, _GAPS = 1 * GB, 1.1


def costs_text(cells: Sequence[Cell], cost_of: CostOf) -> str:
    """Return what training costs on each kind of GPU; cells that cost the same share a row.

    A last part names the cells that do not fit into the memory of a GPU, and the keys to change.
    """
    counts = Counter(cell.family for cell in cells if cell.stage != CONVERT)
    first = {cell.family: cell for cell in reversed(cells)}
    rows = [_HEAD]
    costs: list[tuple[Cell, RunCost]] = []
    for family, count in counts.items():
        cell = first[family]
        try:
            cost = cost_of(cell)
        except UserError:
            raise
        except Exception as error:  # whatever a model of the user's own raises on fake tensors
            rows.append((cell.name, f"{count}", f"not estimated: {type(error).__name__}"))
            continue
        costs.append((cell, cost))
        rows.append(_row(cell.name, count, cost))
    totals = [sum(cost.hours(gpu) * cost.num_gpus * counts[cell.family] for cell, cost in costs)
              for gpu in GPUS]  # fmt: skip
    disk = sum(cost.disk * counts[cell.family] for cell, cost in costs)
    hours = [item for total in totals for item in ("", f"{total:.0f}")]
    rows.append(("GPU-hours and disk, all", f"{counts.total()}", "", "", "", *hours, _gb(disk)))
    note = (
        f"estimated for training alone, at {UTILISATION:.0%} of the peak rates (docs/running.md):"
    )
    return "\n".join([note, *aligned(rows), *_too_large(costs)])


_HEAD = (
    "cell",
    "cells",
    "GPUs",
    "GFLOP/image",
    "GB/GPU",
    *(word for gpu in GPUS for word in (f"{gpu.name} img/s", "hours")),
    "disk GB",
)


def _row(name: str, count: int, cost: RunCost) -> tuple[str, ...]:
    if cost.step is None:
        return (name, f"{count}", f"{cost.num_gpus}", "no training")
    rates = [
        word for gpu in GPUS for word in (f"{cost.images_per_s(gpu):.0f}", f"{cost.hours(gpu):.1f}")
    ]
    flops = f"{cost.step.flops / cost.step.images / 1e9:.1f}"
    memory = _gb(cost.step.memory)
    return (name, f"{count}", f"{cost.num_gpus}", flops, memory, *rates, _gb(cost.disk))


def _too_large(costs: Sequence[tuple[Cell, RunCost]]) -> list[str]:
    lines = []
    for cell, cost in costs:
        small = [gpu for gpu in GPUS if cost.step and not fits(cost, gpu)]
        if small and cost.step:
            names = ", ".join(f"{gpu.name} ({gpu.memory / GB:.0f} GB)" for gpu in small)
            lines.append(
                f"{cell.name} needs about {_gb(cost.step.memory)} GB per GPU and does not fit on "
                f"{names}; lower {cost.relief}"
            )
    return lines


def fits(cost: RunCost, gpu: Gpu) -> bool:
    """Whether a step fits into the memory of a GPU, with what is there beside the tensors."""
    return cost.step is None or cost.step.memory * _GAPS + _CONTEXT <= gpu.memory


def _gb(size: float) -> str:
    return f"{size / GB:.1f}"
