#!/usr/bin/env python3
"""Print finished evaluations beside the paper's numbers, with the difference.

Example:
    tools/compare.py output/paper/voc/mls-seed0 output/paper/voc/mls-seed1
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mls_d2.core.errors import run_tool
from mls_d2.report.comparison import compare


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS_DIR",
        help="folder to search for results.json; runs that differ in the seed alone are averaged",
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    print(compare(parser.parse_args().results))


if __name__ == "__main__":
    run_tool(main)
