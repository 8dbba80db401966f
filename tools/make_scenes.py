#!/usr/bin/env python3
"""Make a root of synthetic scenes that Detectron2's builtin dataset names can load.

Example:
    python tools/make_scenes.py --root datasets/scenes --train 400 --val 300 --unlabeled 4000
    DETECTRON2_DATASETS=datasets/scenes python tools/train_net.py …
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mls_d2.core.errors import run_tool
from mls_d2.scenes import SceneParams, generate
from mls_d2.scenes.files import write_png
from mls_d2.scenes.sheet import contact_sheet


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    defaults = SceneParams()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder to write, new or made by this tool")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    for name, text in (
        ("train", "images in COCO train2017"),
        ("val", "images in COCO val2017"),
        ("unlabeled", "images in COCO unlabeled2017"),
        ("voc", "images in each of VOC2007 trainval, VOC2007 test and VOC2012 trainval"),
        ("cityscapes", "images in Cityscapes train; val has a fifth as many"),
    ):
        default = getattr(defaults, name)
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default {default})"
        )
    parser.add_argument(
        "--size", type=int, nargs=2, default=defaults.size, metavar=("W", "H"),
        help="pixels of an image (default 128 128)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one a core)")
    parser.add_argument(
        "--contact-sheet", type=Path, metavar="FILE.png",
        help="also draw the first scenes, with and without annotations, into this file",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Make the scenes that the command line asks for."""
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = ("seed", "train", "val", "unlabeled", "voc", "cityscapes")
    parameters = {name: getattr(args, name) for name in names} | {"size": tuple(args.size)}
    generate(args.root, num_workers=args.workers, **parameters)
    if args.contact_sheet is not None:
        write_png(args.contact_sheet, contact_sheet(SceneParams(**parameters)))
        print(f"contact sheet: {args.contact_sheet}")


if __name__ == "__main__":
    run_tool(main)
