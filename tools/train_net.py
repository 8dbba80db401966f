#!/usr/bin/env python3
"""Fine-tune a detector, a segmentation network or a classifier from a backbone, and evaluate it."""

import argparse

from mls_d2.config.loading import load_cfg
from mls_d2.config.recipes import mark_if_changed
from mls_d2.core.errors import run_tool
from mls_d2.run.launch import launch, tool_parser
from mls_d2.transfer.run import check_transfer, run_evaluation, run_transfer

EXAMPLES = """\
examples (QUICK is transfer_configs/coco/mask_rcnn_R_50_FPN_quick.yaml):
  tools/train_net.py --config-file QUICK MODEL.WEIGHTS output/quick/mls/backbone.pth
  tools/train_net.py --config-file QUICK MODEL.WEIGHTS random OUTPUT_DIR output/random SEED 1
  tools/train_net.py --config-file QUICK --resume MODEL.WEIGHTS output/quick/mls/backbone.pth
  tools/train_net.py --config-file QUICK --eval-only MODEL.WEIGHTS output/random/model_final.pth \
    OUTPUT_DIR output/random-again

It writes OUTPUT_DIR/results.json, which tools/report.py reads, and OUTPUT_DIR/predictions.png.
MODEL.WEIGHTS is a backbone file, or "random" to start from random weights.
"""


def run(args: argparse.Namespace) -> None:
    """Run one process of the transfer."""
    cfg = load_cfg(args.config_file, args.opts)
    mark_if_changed(cfg, load_cfg(args.config_file), "transfer")
    if args.dry_run:
        check_transfer(cfg)
    elif args.eval_only:
        run_evaluation(cfg)
    else:
        run_transfer(cfg, resume=args.resume)


def main() -> int:
    """Parse the command line and run."""
    parser = tool_parser(__doc__ or "", EXAMPLES)
    alone = parser.add_mutually_exclusive_group()
    text = "only evaluate MODEL.WEIGHTS, a whole model, into an OUTPUT_DIR that holds no run"
    alone.add_argument("--eval-only", action="store_true", help=text)
    text = "only check config and data, without weights"
    alone.add_argument("--dry-run", action="store_true", help=text)
    args = parser.parse_args()
    return launch(run, args, device=load_cfg(args.config_file, args.opts).MODEL.DEVICE)


if __name__ == "__main__":
    run_tool(main)
