#!/usr/bin/env python3
"""Convert the ResNet in any self-supervised checkpoint for Detectron2, verified.

Examples:
    python tools/convert.py moco_v2_800ep_pretrain.pth.tar moco.pth
    python tools/convert.py --inspect dino_resnet50_pretrain.pth
    python tools/convert.py downloads/ converted/
    python tools/convert.py backbone.pth for-timm.safetensors --to torchvision

What the file is from is recognised by the structure of its names; nothing in it is run.
docs/checkpoints.md lists what is known.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from mls_d2.checkpoint import Backbone, load_backbone
from mls_d2.checkpoint.backbone_file import sha256
from mls_d2.checkpoint.convert import TARGETS, write_converted
from mls_d2.errors import UserError, run_tool

_SHOWN = 8


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("src", metavar="SRC", help="checkpoint, or a folder of them")
    parser.add_argument("dst", metavar="DST", nargs="?", help="file to write, or folder")
    parser.add_argument("--source", default="auto", metavar="NAME", help="what it is from")
    parser.add_argument("--encoder", metavar="PREFIX", help="encoder to take, whatever is usual")
    parser.add_argument("--method", metavar="NAME", help="what results and reports call it")
    parser.add_argument("--to", choices=TARGETS, default="detectron2", help="names to write")
    parser.add_argument("--inspect", action="store_true", help="only say what is in it")
    parser.add_argument("--json", action="store_true", help="say it as JSON")
    parser.add_argument("--force", action="store_true", help="overwrite DST")
    parser.add_argument("--no-verify", action="store_true", help="do not compare the networks")
    parser.add_argument("--sha256", metavar="HEX", help="refuse a file with another digest")
    parser.add_argument(
        "--stub-unknown-objects",
        action="store_true",
        help="put inert objects in place of those that torch refuses to load",
    )
    return parser.parse_args()


def convert(src: str, dst: str | None, args: argparse.Namespace) -> Backbone:
    """Convert one file, or only read it where ``dst`` is None."""
    if dst is not None and os.path.exists(dst) and not args.force:
        raise UserError(f"'{dst}' exists; take another name, or --force to overwrite it")
    if args.sha256 and sha256(src) != args.sha256.lower():
        raise UserError(f"'{src}' has sha256 {sha256(src)}, expected {args.sha256}: not that file")
    backbone = load_backbone(
        src,
        source=args.source,
        encoder=args.encoder,
        check=not args.no_verify,
        stubs=args.stub_unknown_objects,
    )
    if args.method:
        backbone.info["method"] = args.method
    if dst is not None:
        write_converted(dst, backbone, to=args.to)
    return backbone


def tell(src: str, dst: str | None, backbone: Backbone, args: argparse.Namespace) -> None:
    """Print what was taken, what was left, and the config that must travel with it."""
    info = backbone.info
    if args.json:
        print(json.dumps({"src": src, "dst": dst, **info, "config": backbone.config}, indent=2))
        return
    print(f"{src}: {info['source_title']} ({info['source']})")
    where = f" in {info['container']}" if info["container"] else ""
    print(f"  taken: {len(backbone.state_dict)} tensors of '{info['encoder']}'{where}")
    if info["note"]:
        print(f"  note: {info['note']}")
    left = info["left"]
    if left:
        more = f", … ({len(left)} in all)" if len(left) > _SHOWN else ""
        print(f"  left: {', '.join(left[:_SHOWN])}{more}")
    if info["verified"] is not None:
        print(f"  verified: every stage agrees with the original to {info['verified']:.1e}")
    print("  it needs this config:")
    print("".join(f"    {line}\n" for line in backbone.config_yaml().splitlines()), end="")
    if dst is not None:
        print(f"wrote {dst}")


def convert_folder(args: argparse.Namespace) -> int:
    """Convert every file of a folder and print a table; files that are refused do not stop it."""
    files = sorted(path for path in Path(args.src).iterdir() if path.is_file())
    suffix = ".pth"
    if args.dst is not None:
        os.makedirs(args.dst, exist_ok=True)
    failed = 0
    for path in files:
        name = path.name.removesuffix(".tar")
        dst = None if args.dst is None else str(Path(args.dst) / (Path(name).stem + suffix))
        try:
            backbone = convert(str(path), dst, args)
        except UserError as error:
            failed += 1
            print(f"{path.name:40s} refused: {str(error).splitlines()[0]}")
        else:
            sizes = backbone.info["architecture"]
            print(f"{path.name:40s} {backbone.info['source']:24s} ResNet-{sizes['depth']}")
    print(f"{len(files) - failed} of {len(files)} converted")
    return 2 if failed else 0


def main() -> int:
    """Convert or inspect what the command line names."""
    args = parse_args()
    if args.inspect == (args.dst is not None):
        raise UserError("give DST to convert, or --inspect to only look")
    if os.path.isdir(args.src):
        return convert_folder(args)
    backbone = convert(args.src, args.dst, args)
    tell(args.src, args.dst, backbone, args)
    return 0


if __name__ == "__main__":
    run_tool(main)
