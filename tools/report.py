#!/usr/bin/env python
"""Make a report from the results of finished evaluations."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mls_d2.errors import run_tool
from mls_d2.report.build import REPORT_FILE, write_report
from mls_d2.report.summary import terminal_summary


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Write report.md, results.csv and plots from the results.json files below "
        "RESULTS_DIR, and print a summary.",
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS_DIR",
        help="folder to search for results.json, for example output/quick",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder to write the report to (default: report/ in the first RESULTS_DIR)",
    )
    return parser.parse_args()


def main() -> None:
    """Write the report and print its summary."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    args = parse_args()
    out = args.out or args.results[0] / "report"
    report = write_report(args.results, out)
    print(terminal_summary(report, str(out / REPORT_FILE)))


if __name__ == "__main__":
    run_tool(main)
