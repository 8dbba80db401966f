#!/usr/bin/env python3
"""Make a report from the results of finished evaluations."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mls_d2.core.errors import run_tool
from mls_d2.report.build import REPORT_FILE, write_report
from mls_d2.report.options import DEFAULT_BASELINE, Options
from mls_d2.report.published_file import load_published
from mls_d2.report.summary import terminal_summary
from mls_d2.report.update import update_document


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Write report.html, report.md, results.csv, results.tex and plots from the "
        "results.json files below RESULTS_DIR, and print a summary.",
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
    parser.add_argument(
        "--baseline",
        default=DEFAULT_BASELINE,
        metavar="METHOD",
        help="method, or row, that differences and tests are taken to (default: %(default)s)",
    )
    parser.add_argument(
        "--published",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="published numbers of your own, as docs/report.md describes them (repeatable)",
    )
    parser.add_argument(
        "--mix",
        action="store_true",
        help="one table a task even where recipe, data or schedule differ; it is marked",
    )
    parser.add_argument(
        "--update",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="Markdown file whose tables between <!-- report:begin NAME --> and "
        "<!-- report:end NAME --> are replaced; NAME: docs/report.md (repeatable)",
    )
    return parser.parse_args()


def main() -> None:
    """Write the report, update documents and print a summary."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    args = parse_args()
    options = Options(args.baseline, args.mix, load_published(args.published))
    out = args.out or _default_out(args.results[0])
    report = write_report(args.results, out, options)
    for document in args.update:
        names = update_document(document, report)
        print(f"updated {document}: {', '.join(names)}")
    print(terminal_summary(report, str(out / REPORT_FILE)))


def _default_out(first: Path) -> Path:
    return (first.parent if first.is_file() else first) / "report"


if __name__ == "__main__":
    run_tool(main)
