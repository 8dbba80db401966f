#!/usr/bin/env python3
"""Run methods × tasks × seeds: pretrain, fine-tune, evaluate, report; resumable."""

from __future__ import annotations

import argparse
from pathlib import Path

from mls_d2.core.errors import UserError, run_tool
from mls_d2.runner.cells import Tools
from mls_d2.runner.cluster import SlurmOptions
from mls_d2.runner.run import Options, run_benchmark
from mls_d2.runner.suite import build_suite, read_suite

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = """\
examples:
  tools/benchmark.py suites/quick.yaml --dry-run
  tools/benchmark.py suites/quick.yaml --update README.md
  tools/benchmark.py --methods "random mls" --tasks "coco voc" --seeds 0,1,2
  tools/benchmark.py suites/paper_table1.yaml --slurm gpu --checkpoint supervised=resnet50.pth

What is finished is not run again, what was interrupted goes on, what was changed is run.
Exit codes: 0 all finished, 2 a mistake of the command, 3 a cell failed, 75 and 130 interrupted.
docs/benchmark.md has the keys of a suite file.
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", nargs="?", type=Path, metavar="SUITE", help="YAML file")
    parser.add_argument("--methods", metavar="NAMES", help="instead of the suite's")
    parser.add_argument("--tasks", metavar="NAMES", help="instead of the suite's")
    parser.add_argument("--seeds", metavar="LIST", help="of fine-tuning, instead of the suite's")
    parser.add_argument("--preset", help="quick (default) or paper, where there is no suite")
    parser.add_argument("--name", help="of the folder below --out (default: the suite's)")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a row from any file that tools/convert.py reads; may be repeated",
    )
    parser.add_argument("--out", type=Path, default=Path("output/benchmark"), metavar="DIR")
    parser.add_argument("--num-gpus", type=int, metavar="N", help="of a job")
    parser.add_argument("--jobs", type=int, metavar="N", help="at a time")
    parser.add_argument("--dry-run", action="store_true", help="only show the plan")
    parser.add_argument("--update", type=Path, metavar="FILE", help="whose table to renew")
    parser.add_argument("--slurm", metavar="PARTITION", help="queue the cells there")
    parser.add_argument("--slurm-timeout", type=int, default=24 * 60, metavar="MINUTES")
    parser.add_argument("--no-wait", action="store_true", help="with --slurm: only queue")
    return parser.parse_args()


def main() -> int:
    """Build the suite and run it."""
    args = parse_args()
    content = read_suite(args.suite) if args.suite else {}
    chosen = {"methods": args.methods, "tasks": args.tasks, "seeds": args.seeds}
    chosen = {key: value for key, value in chosen.items() if value is not None}
    if chosen:
        # Part of a suite is not that suite, whose report stays as it is.
        content |= chosen | {"name": "custom"}
    given = {"preset": args.preset, "name": args.name, "num_gpus": args.num_gpus}
    content |= {key: value for key, value in given.items() if value is not None}
    suite = build_suite(content, ROOT, checkpoints=dict(map(split_checkpoint, args.checkpoint)))
    slurm = None
    if args.slurm:
        slurm = SlurmOptions(args.slurm, args.slurm_timeout, wait=not args.no_wait)
    options = Options(args.out, args.dry_run, args.jobs, slurm, args.update)
    return run_benchmark(suite, options, Tools.below(ROOT))


def split_checkpoint(given: str) -> tuple[str, Path]:
    """Return the name and the file of ``NAME=FILE``."""
    name, _, path = given.partition("=")
    if not path:
        raise UserError(f"--checkpoint must be NAME=FILE, got '{given}'")
    return name, Path(path)


if __name__ == "__main__":
    run_tool(main)
