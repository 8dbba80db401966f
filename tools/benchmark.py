#!/usr/bin/env python3
"""Run methods × tasks × seeds: pretrain, fine-tune, evaluate, report; reuse what is finished."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Python puts this script's folder first, where tools/pretrain.py hides the package pretrain.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mls_d2.checkpoint.download import fetch  # noqa: E402 - after the path above
from mls_d2.config.loading import load_cfg  # noqa: E402
from mls_d2.core.errors import UserError, run_tool  # noqa: E402
from mls_d2.core.resources import find_suite  # noqa: E402
from mls_d2.run.cost import RunCost  # noqa: E402
from mls_d2.run.registration import register_all  # noqa: E402
from mls_d2.runner.cells import PRETRAIN, Cell, Tools  # noqa: E402
from mls_d2.runner.slurm import DAY_MIN, SlurmOptions  # noqa: E402
from mls_d2.runner.suite import RANDOM, Suite, build_suite, read_suite  # noqa: E402
from mls_d2.runner.suite_run import Options, run_suite  # noqa: E402
from mls_d2.transfer.cost import transfer_cost  # noqa: E402
from pretrain.cost import pretrain_cost  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = """\
examples:
  tools/benchmark.py quick --dry-run
  tools/benchmark.py suites/quick.yaml --update README.md
  tools/benchmark.py --methods "random mls" --tasks "coco voc" --seeds 0,1,2
  tools/benchmark.py --methods mls --only pretrain MLS.K 7
  tools/benchmark.py --backbone backbone.pth --tasks coco SOLVER.BASE_LR 0.01
  tools/benchmark.py suites/paper_table1.yaml --slurm gpu --checkpoint supervised=resnet50.pth

KEY VALUE pairs change the config of every task; with --only pretrain that of every pretraining.
Finished cells are not run again, interrupted ones resume, changed ones run.
Exit codes: 0 all finished, 2 an error in the command, 3 a cell failed, 75 and 130 interrupted.
docs/benchmark.md describes suite files and all options.
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="[SUITE] [KEY VALUE …]", help="suite file or name, config keys")
    add("--methods", metavar="NAMES", help="instead of the suite's")
    text = "instead of the suite's: coco, voc, cityscapes, cls, all …"
    add("--tasks", metavar="NAMES", help=text)
    add("--seeds", metavar="LIST", help="of fine-tuning, instead of the suite's")
    add("--seed", type=int, metavar="N", help="of pretraining, and of fine-tuning without --seeds")
    add("--preset", help="quick (default), onegpu or paper, if there is no suite")
    add("--epochs", type=int, choices=(400, 800), default=400, help="of --methods unless quick")
    add("--name", help="folder below --out (default: the name of the suite, or the preset)")
    text = "a method from any file that tools/convert.py reads; may be repeated"
    add("--checkpoint", action="append", default=[], metavar="NAME=FILE", help=text)
    add("--backbone", metavar="FILE", help="a method from a backbone file or URL, or 'random'")
    text = "pretrain alone, or evaluate what is pretrained"
    add("--only", choices=("pretrain", "eval"), help=text)
    add("--data", metavar="DIR", help="instead of DETECTRON2_DATASETS; for quick: datasets/scenes")
    add("--out", type=Path, default=Path("output"), metavar="DIR", help="default: output")
    add("--num-gpus", type=int, metavar="N", help="per cell")
    add("--jobs", type=int, metavar="N", help="cells at a time")
    add("--dry-run", action="store_true", help="only show the plan and its cost")
    add("--follow", action="store_true", help="print the output of the tools")
    add("--update", type=Path, metavar="FILE", help="Markdown file whose tables the report updates")
    add("--slurm", metavar="PARTITION", help="queue the cells there")
    add("--slurm-timeout", type=int, default=DAY_MIN, metavar="MINUTES", help="default: a day")
    add("--no-wait", action="store_true", help="with --slurm: only queue")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Build the suite and run it."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    suite = suite_of(args)
    if args.data or (suite.preset == "quick" and "DETECTRON2_DATASETS" not in os.environ):
        os.environ["DETECTRON2_DATASETS"] = os.path.abspath(
            os.path.expanduser(args.data or "datasets/scenes")
        )
    slurm = None
    if args.slurm:
        slurm = SlurmOptions(args.slurm, args.slurm_timeout, wait=not args.no_wait)
    options = Options(
        args.out,
        dry_run=args.dry_run,
        jobs=args.jobs,
        slurm=slurm,
        evaluate_only=args.only == "eval",
        report=args.only is None,
        update=args.update,
        follow=args.follow,
        cost_of=cost_of,
    )
    return run_suite(suite, options, Tools.below(ROOT))


def cost_of(cell: Cell) -> RunCost:
    """Return what training a cell costs."""
    register_all()
    cfg = load_cfg(*cell.recipe)
    return (pretrain_cost if cell.stage == PRETRAIN else transfer_cost)(cfg, cell.num_gpus)


def suite_of(args: argparse.Namespace) -> Suite:
    """Return the suite of the command line."""
    path = None
    if begins_with_suite(args.words):
        path, *args.words = args.words
    content = read_suite(Path(find_suite(path))) if path else {"name": args.preset or "quick"}
    selected = selection(args)
    if selected and path:
        # A selection of a suite does not replace its report.
        content["name"] = "custom"
    given = {"preset": args.preset, "name": args.name, "num_gpus": args.num_gpus}
    content |= selected | {key: value for key, value in given.items() if value is not None}
    if args.only == "pretrain":
        content.pop("tasks", None)
    elif not content.get("tasks"):
        raise UserError("nothing to run: give a suite file, or --tasks", code="bad-value")
    checkpoints = dict(map(split_checkpoint, args.checkpoint))
    suite = build_suite(content, ROOT, checkpoints=checkpoints, opts=args.words)
    untrained = [item.name for item in suite.methods if args.only == "pretrain" and not item.config]
    if untrained:
        raise UserError(
            f"nothing is pretrained for {', '.join(untrained)}: --only pretrain is for methods "
            "with a pretraining config",
            code="unknown-name",
        )
    return suite


def begins_with_suite(words: Sequence[str]) -> bool:
    """Whether the first word is a suite: a file, or a name before pairs of KEY VALUE."""
    if not words:
        return False
    name = len(words) % 2 == 1 and words[0].islower()
    return name or words[0].endswith((".yaml", ".yml")) or Path(words[0]).is_file()


def selection(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of a suite that the command line sets."""
    methods: list[Any] = []
    for name in (args.methods or "").replace(",", " ").split():
        longer = args.preset not in (None, "quick") and args.epochs == 800 and name != RANDOM
        methods.append(f"{name}-800ep" if longer else name)
    if args.backbone == RANDOM:
        methods.append(RANDOM)
    elif args.backbone:
        path = Path(args.backbone)
        # Every run has a backbone.pth: use the name of its folder.
        stem = path.stem if path.stem != "backbone" else path.absolute().parent.name
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "backbone"
        methods.append({"name": name, "backbone": args.backbone})
    chosen = {"methods": methods or None, "tasks": args.tasks, "seeds": args.seeds}
    if args.seed is not None:
        chosen["seeds"] = args.seeds or args.seed
        chosen["pretrain_seed"] = args.seed
    return {key: value for key, value in chosen.items() if value is not None}


def split_checkpoint(given: str) -> tuple[str, Path]:
    """Return the name and the file of ``NAME=FILE``."""
    name, _, path = given.partition("=")
    if not path:
        raise UserError(f"--checkpoint must be NAME=FILE, got '{given}'", code="bad-value")
    return name, Path(fetch(path))


if __name__ == "__main__":
    run_tool(main)
