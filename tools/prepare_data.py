#!/usr/bin/env python3
"""Check the datasets below DETECTRON2_DATASETS, and make the files that they lack.

Says of each what is missing, and the official page and archives to get it from. Nothing is
downloaded. Run it again after each step: what is in order stays as it is.

Example:
    DETECTRON2_DATASETS=~/datasets tools/prepare_data.py coco voc
"""

from __future__ import annotations

import argparse

from mls_d2.core.errors import EXIT_USER_ERROR, UserError, nearest, run_tool
from mls_d2.data.preparation import SOURCES, inspect, roots_problem, where_to_get
from mls_d2.run.registration import register_all


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "datasets", nargs="*", metavar="DATASET", help=f"of {', '.join(SOURCES)} (default: all)"
    )
    parser.add_argument(
        "--sample", type=int, default=64, metavar="N",
        help="images to decode in each split (default 64)",
    )  # fmt: skip
    return parser.parse_args()


def main() -> int:
    """Look at each dataset and say what was found; 2 where something is wrong."""
    args = parse_args()
    for name in args.datasets:
        if name not in SOURCES:
            raise UserError(f"unknown dataset '{name}'; {nearest(name, SOURCES)}")
    if args.sample < 0:
        raise UserError(f"--sample is {args.sample}, expected 0 or more")
    if roots_problem():
        raise UserError(roots_problem())
    register_all()
    wrong = []
    for name in args.datasets or SOURCES:
        finding = inspect(SOURCES[name], sample=args.sample)
        print(f"{name}: {'not in order' if finding.problems else 'in order'}")
        for fact in finding.facts:
            print(f"  ok  {fact}")
        for problem in finding.problems:
            print(f"  --  {problem.replace(chr(10), chr(10) + '      ')}")
        if finding.problems:
            wrong.append(name)
            print(f"  get {where_to_get(SOURCES[name])}")
    print(f"{len(wrong)} not in order: {', '.join(wrong)}" if wrong else "all in order")
    return EXIT_USER_ERROR if wrong else 0


if __name__ == "__main__":
    run_tool(main)
