#!/usr/bin/env python3
"""The cost of the runner itself per cell: the tools are stubs that write one file.

The times are of the whole ``run_suite``: planning, records, links, summary and the start of the
stubs. A second run finds everything finished.

Example:
    python benchmarks/runner_overhead.py --cells 100
"""

import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path

from timing import parse

from mls_d2.core.errors import run_tool
from mls_d2.runner.cells import Tools
from mls_d2.runner.suite import Suite, build_suite
from mls_d2.runner.suite_run import Options, run_suite

ROOT = Path(__file__).resolve().parent.parent
STUB = """
import sys
name, words = sys.argv[1], sys.argv[2:]
if name:
    open(words[words.index("OUTPUT_DIR") + 1] + "/" + name, "w").write("{}")
"""


def main() -> None:
    """Time a first and a second run and print seconds per cell."""
    args = parse(__doc__, cells=100, jobs=1)
    files = ("backbone.pth", "", "results.json", "")
    tools = Tools(*((sys.executable, "-S", "-c", STUB, name) for name in files))
    seeds = list(range(max(1, (args.cells - 2) // 3)))
    content = {"methods": ["random", "mocov2", "mls"], "tasks": ["coco"], "seeds": seeds}
    suite = build_suite(content, ROOT)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DETECTRON2_DATASETS"] = folder
        options = Options(Path(folder) / "out", jobs=args.jobs)
        cells = 2 + 3 * len(seeds)
        print(f"{cells} cells, {args.jobs} at a time; seconds per cell")
        for name in ("first run", "all finished"):
            print(f"  {name:14s}{seconds_of(suite, options, tools) / cells:8.3f}")


def seconds_of(suite: Suite, options: Options, tools: Tools) -> float:
    """Run the suite without its output and return how long it took."""
    start = time.perf_counter()
    silent = io.StringIO()
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        code = run_suite(suite, options, tools)
    if code:
        raise SystemExit(silent.getvalue())
    return time.perf_counter() - start


if __name__ == "__main__":
    run_tool(main)
