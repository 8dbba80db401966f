#!/usr/bin/env python3
"""Draw the predictions of a fine-tuned model on images."""

import argparse
import logging
import os
import sys

from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import EXIT_USER_ERROR, run_tool
from mls_d2.transfer.predict import run_demo

EXAMPLES = """\
examples (RUN is the OUTPUT_DIR of tools/train_net.py):
  tools/demo.py --config-file RUN/config.yaml --input a.jpg folder/ --output drawn
  tools/demo.py --config-file RUN/config.yaml MODEL.WEIGHTS other.pth --input a.jpg --output drawn

MODEL.WEIGHTS is RUN/model_final.pth unless it is given. Boxes and masks are drawn, or the class of
each pixel as a colour. An image that cannot be read is named and left out; the exit code is 2 then.
"""


def parse_args() -> argparse.Namespace:
    """Parse the command line; KEY VALUE pairs may come anywhere between the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="RUN/config.yaml")
    add(
        "--input", required=True, nargs="+", metavar="IMAGE", help="image files, or folders of them"
    )
    add("--output", required=True, metavar="FOLDER", help="folder to write PNGs to")
    add("--min-score", type=float, default=0.5, help="draw no detection below it (default 0.5)")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    return parser.parse_intermixed_args()


def main() -> int:
    """Draw all images and return 2 if some could not be read."""
    args = parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    final = os.path.join(os.path.dirname(args.config_file), "model_final.pth")
    weights = [] if "MODEL.WEIGHTS" in args.opts else ["MODEL.WEIGHTS", final]
    cfg = load_cfg(args.config_file, [*args.opts, *weights])
    written, problems = run_demo(cfg, args.input, args.output, min_score=args.min_score)
    for path in written:
        print(path)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    return EXIT_USER_ERROR if problems else 0


if __name__ == "__main__":
    run_tool(main)
