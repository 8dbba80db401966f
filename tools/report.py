#!/usr/bin/env python3
"""Make a report from the results of finished evaluations, or print them."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mls_d2.core.errors import run_tool
from mls_d2.report.build import REPORT_FILE, compare, update_document, write_report
from mls_d2.report.live import LOOPBACK, make_server
from mls_d2.report.published import load_published
from mls_d2.report.render import render_terminal
from mls_d2.report.tables import DEFAULT_BASELINE, ReportOptions


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.serve is not None and (args.summary or args.update):
        parser.error("--serve writes and prints nothing; leave --summary and --update out")
    if args.summary and (args.out or args.update):
        parser.error("--summary writes nothing; leave --out and --update out")
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write report.html, report.md, results.csv, results.tex and plots from the "
        "results.json files below RESULTS_DIR, and print a summary.",
    )
    add = parser.add_argument
    text = "folder to search for results.json, for example output/quick"
    add("results", nargs="+", type=Path, metavar="RESULTS_DIR", help=text)
    text = "folder to write the report to (default: report/ in the first RESULTS_DIR)"
    add("--out", type=Path, metavar="DIR", help=text)
    text = "write nothing; print each method and task beside the published numbers"
    add("--summary", action="store_true", help=f"{text}, with the difference")
    text = "method, or row, that differences and tests are taken to (default: %(default)s)"
    add("--baseline", default=DEFAULT_BASELINE, metavar="METHOD", help=text)
    files: dict[str, Any] = {"action": "append", "default": [], "type": Path, "metavar": "FILE"}
    text = "published numbers of your own, as docs/report.md describes them (repeatable)"
    add("--published", **files, help=text)
    text = "one table per task even if recipe, data or schedule differ; it is marked"
    add("--mix", action="store_true", help=text)
    text = "Markdown file whose tables between <!-- report:begin NAME --> and <!-- report:end NAME"
    add("--update", **files, help=f"{text} --> are replaced; NAME: docs/report.md (repeatable)")
    text = "write nothing; show the runs below RESULTS_DIR in a browser while they run (PORT: 8000)"
    add("--serve", nargs="?", type=_port, const=8000, metavar="PORT", help=text)
    text = "with --serve: where to listen; 0.0.0.0 shows the page to the whole network, without a "
    text += "password (default: %(default)s, this machine alone)"
    add("--host", default=LOOPBACK, metavar="ADDRESS", help=text)
    return parser


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"PORT must be 0 to 65535, got '{text}'; folders come before --serve"
    )


def _serve(folders: Sequence[Path], options: ReportOptions, host: str, port: int) -> None:
    with make_server(folders, options, host=host, port=port) as server:
        print(f"http://{host}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report, update documents and print a summary."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    args = parse_args(argv)
    options = ReportOptions(args.baseline, args.mix, load_published(args.published))
    if args.serve is not None:
        _serve(args.results, options, args.host, args.serve)
        return
    if args.summary:
        print(compare(args.results, options))
        return
    first = args.results[0]
    out = args.out or (first.parent if first.is_file() else first) / "report"
    report = write_report(args.results, out, options)
    for document in args.update:
        names = update_document(document, report)
        print(f"updated {document}: {', '.join(names)}")
    print(render_terminal(report, str(out / REPORT_FILE)))


if __name__ == "__main__":
    run_tool(main)
