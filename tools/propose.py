#!/usr/bin/env python3
r"""Make the object proposals of a dataset (selective search), which some methods pretrain on.

Pretraining makes them itself if they are missing; this makes them elsewhere, or before. An
interrupted call is resumed by the same command.

Examples:
    tools/propose.py coco_2017_train
    tools/propose.py coco_2017_train --short-side 256
    tools/propose.py path/to/images --out images.boxes
    tools/pretrain.py --config-file … DATASETS.TRAIN "('path/to/images',)" \
      PRETRAIN.PROPOSALS images.boxes
"""

import argparse
import logging
import os
import sys
from pathlib import Path

# Python puts this script's folder first, where tools/pretrain.py hides the package pretrain.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mls_d2.core.errors import run_tool  # noqa: E402 - after the path above
from mls_d2.run.registration import register_all  # noqa: E402
from pretrain.data import image_source  # noqa: E402
from pretrain.proposing import Search, default_path, provide_proposals  # noqa: E402


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = "as in DATASETS.TRAIN: registered datasets or image folders, or one folder of shards"
    parser.add_argument("data", nargs="+", help=text)
    text = "file to write (default: where pretraining looks, below the datasets' folder)"
    parser.add_argument("--out", metavar="FILE", help=text)
    text = "reduce the shorter side to this many pixels before, as PRETRAIN.PROPOSALS_SIDE; 0: no"
    parser.add_argument("--short-side", type=int, default=0, metavar="N", help=text)
    cores = os.cpu_count() or 1
    text = "processes; 0 is this one (default: one per core)"
    parser.add_argument("--workers", type=int, default=cores, metavar="N", help=text)
    return parser.parse_args()


def main() -> None:
    """Make the proposals, or check those that are there."""
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    register_all()
    source, search = image_source(args.data), Search(short_side=args.short_side)
    path = args.out or default_path(source, search)
    proposals = provide_proposals(source, path, search, workers=args.workers)
    print(f"{len(proposals)} images, {proposals.total} boxes: '{path}'")


if __name__ == "__main__":
    run_tool(main)
