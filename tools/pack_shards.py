#!/usr/bin/env python3
"""Pack images into tar shards for pretraining, or index tar shards that come from elsewhere.

A large dataset in shards needs no listing of its files, and at a reduced size it decodes several
times as fast. An interrupted packing is resumed.

Examples:
    python tools/pack_shards.py coco_2017_unlabeled coco_2017_train --out shards --short-side 320
    python tools/pretrain.py --config-file … DATASETS.TRAIN "('shards',)"
    python tools/pack_shards.py --index laion-shards
"""

import argparse
import logging
import os
import sys
from pathlib import Path

# Python puts this script's folder first, where tools/pretrain.py hides the package pretrain.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mls_d2.core.errors import UserError, run_tool  # noqa: E402 - after the path above
from mls_d2.run.registration import register_all  # noqa: E402
from pretrain.data import image_source  # noqa: E402
from pretrain.packing import Packing, index_shards, pack  # noqa: E402


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    default = Packing()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", help="registered datasets or image folders to pack")
    parser.add_argument("--out", help="folder to write: new, empty, or begun by the same command")
    parser.add_argument("--index", metavar="FOLDER", help="only index the tar files in FOLDER")
    for name, text in (
        ("per_shard", "images per shard"),
        ("short_side", "reduce the shorter side to this many pixels; 0 keeps the files"),
        ("quality", "of JPEGs that are encoded again, 1 to 100"),
        ("seed", "of the order"),
    ):
        value = getattr(default, name)
        flag = "--" + name.replace("_", "-")
        help_text = f"{text} (default {value})"
        parser.add_argument(flag, type=int, default=value, metavar="N", help=help_text)
    cores = os.cpu_count() or 1
    help_text = "processes; 0 is this one (default: one per core)"
    parser.add_argument("--workers", type=int, default=cores, metavar="N", help=help_text)
    return parser.parse_args()


def main() -> None:
    """Pack or index what the command line names."""
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if bool(args.index) == bool(args.out) or bool(args.out) != bool(args.data):
        raise UserError("give either datasets and --out, or --index FOLDER", code="bad-option")
    register_all()
    if args.index:
        count = index_shards(args.index)
    else:
        packing = Packing(args.per_shard, args.short_side, args.quality, args.seed)
        count = pack(image_source(args.data), args.out, packing, workers=args.workers)
    folder = args.index or args.out
    print(f"{count} images in '{folder}'. Use them with: DATASETS.TRAIN \"('{folder}',)\"")


if __name__ == "__main__":
    run_tool(main)
