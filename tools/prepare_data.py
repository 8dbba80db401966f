#!/usr/bin/env python3
"""Check the datasets below DETECTRON2_DATASETS, and make the files that they lack.

Prints what is missing, and the official page and archives to get it from. Nothing is downloaded.
Run it again after each step.

Example:
    DETECTRON2_DATASETS=~/datasets tools/prepare_data.py coco voc
"""

import argparse
from collections.abc import Sequence

from mls_d2.core.errors import EXIT_USER_ERROR, UserError, nearest, run_tool
from mls_d2.data.preparation import SOURCES, check_root, inspect, where_to_get
from mls_d2.run.registration import register_all


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, text = parser.add_argument, "images to decode in each split (default 64)"
    add("datasets", nargs="*", metavar="DATASET", help=f"of {', '.join(SOURCES)} (default: all)")
    add("--sample", type=int, default=64, metavar="N", help=text)
    add("--subset", action="store_true", help="accept fewer images than the official dataset has")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check each dataset and print the result; return 2 if one is not ready."""
    args = parse_args(arguments)
    for name in args.datasets:
        if name not in SOURCES:
            raise UserError(f"unknown dataset '{name}'; {nearest(name, SOURCES)}",
                            code="unknown-name")  # fmt: skip
    if args.sample < 0:
        raise UserError(f"--sample is {args.sample}, expected 0 or more", code="bad-value")
    register_all()
    check_root()
    wrong = []
    for name in args.datasets or SOURCES:
        finding = inspect(SOURCES[name], sample=args.sample, subset=args.subset)
        print(f"{name}: {'not ready' if finding.problems else 'ready'}")
        for fact in finding.facts:
            print(f"  ok  {fact}")
        for problem in finding.problems:
            print(f"  --  {problem.replace(chr(10), chr(10) + '      ')}")
        if finding.problems:
            wrong.append(name)
            print(f"  get {where_to_get(SOURCES[name])}")
    print(f"{len(wrong)} not ready: {', '.join(wrong)}" if wrong else "all ready")
    return EXIT_USER_ERROR if wrong else 0


if __name__ == "__main__":
    run_tool(main)
