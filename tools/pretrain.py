#!/usr/bin/env python3
"""Pretrain a backbone with a self-supervised method."""

import argparse
import sys
from pathlib import Path

# Python puts this script's folder first, where the script hides the package of the same name.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mls_d2.config.loading import load_cfg  # noqa: E402 - after the path above
from mls_d2.config.recipes import mark_if_changed  # noqa: E402
from mls_d2.core.errors import run_tool  # noqa: E402
from mls_d2.run.launch import launch, tool_parser  # noqa: E402
from mls_d2.runner.slurm import add_slurm_arguments, submit  # noqa: E402
from pretrain.run import pretrain  # noqa: E402

EXAMPLES = """\
examples:
  tools/pretrain.py --config-file pretrain/configs/mls_quick.yaml
  tools/pretrain.py --config-file pretrain/configs/mls_coco_400ep.yaml --num-gpus 8
  tools/pretrain.py --config-file pretrain/configs/mls_coco_400ep.yaml --num-gpus 8 --slurm gpu
  tools/pretrain.py --config-file pretrain/configs/mls_quick.yaml --resume
  tools/pretrain.py --config-file pretrain/configs/mls_coco_400ep.yaml \\
    DATASETS.TRAIN "('path/to/images',)" OUTPUT_DIR output/mine

It writes OUTPUT_DIR/backbone.pth, which tools/train_net.py and any Detectron2 config take as
MODEL.WEIGHTS.
"""


def run(args: argparse.Namespace) -> None:
    """Run one process of the pretraining."""
    cfg = load_cfg(args.config_file, args.opts)
    mark_if_changed(cfg, load_cfg(args.config_file), "pretraining")
    pretrain(cfg, resume=args.resume)


def main() -> int:
    """Parse the command line and run."""
    parser = tool_parser(__doc__ or "", EXAMPLES)
    add_slurm_arguments(parser)
    args = parser.parse_args()
    cfg = load_cfg(args.config_file, args.opts)
    if args.slurm:
        return submit(run, args, cfg)
    return launch(run, args, device=cfg.MODEL.DEVICE)


if __name__ == "__main__":
    run_tool(main)
