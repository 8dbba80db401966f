#!/usr/bin/env python3
"""Draw Figures 3 to 5 of the MLS paper from finished runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Python puts this script's folder first, where tools/pretrain.py hides the package pretrain.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mls_d2.core.errors import UserError, run_tool  # noqa: E402 - after the path above
from mls_d2.report.build import draw_sweeps  # noqa: E402
from mls_d2.report.figures import FIGURES_FOLDER  # noqa: E402
from mls_d2.run.environment import setup_logging  # noqa: E402
from pretrain.figures import draw_figures, finished_runs  # noqa: E402

EXAMPLES = """\
examples:
  tools/figures.py output/quick
  tools/figures.py output/paper --method mocov2 --seed 3

Each finished pretraining of the method below RUNS gets, in its folder figures/, figure3.svg: scores
before and after it; and figure4.jpg: crops and their nearest ones; each with its numbers as JSON.
Results of MLS below RUNS that differ in D or λ alone give figures/figure5.svg in the first of RUNS.
Reports show the figures of their runs.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figures that the runs have data for."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folders to search")
    parser.add_argument("--method", default="mls", help="of Figures 3 and 4 (default: mls)")
    parser.add_argument("--seed", type=int, default=0, help="of the images (default: 0)")
    args = parser.parse_args(argv)
    setup_logging()
    pictures = draw_sweeps(args.runs, args.runs[0] / FIGURES_FOLDER)
    problems = []
    for run in finished_runs(args.runs, args.method):
        try:
            pictures += draw_figures(run, run / FIGURES_FOLDER, seed=args.seed)
        except UserError as error:
            problems.append(error)
            print(f"left out {run}: {error}", file=sys.stderr)
    for picture in pictures:
        print(picture)
    if not pictures and problems:
        raise problems[0]
    if not pictures:
        raise UserError(
            f"no finished pretraining of '{args.method}' below {', '.join(map(str, args.runs))}, "
            "and no results that differ in D or λ alone; run `make pretrain` first",
            code="missing-file",
        )


if __name__ == "__main__":
    run_tool(main)
