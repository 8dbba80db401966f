#!/usr/bin/env python3
"""Convert the ResNet in any self-supervised checkpoint for Detectron2, verified.

Examples:
    python tools/convert.py moco_v2_800ep_pretrain.pth.tar moco.pth
    python tools/convert.py https://dl.fbaipublicfiles.com/vicreg/resnet50.pth
    python tools/convert.py --inspect dino_resnet50_pretrain.pth
    python tools/convert.py downloads/ converted/
    python tools/convert.py backbone.pth for-timm.safetensors --to timm
    python tools/convert.py flipped.pth --set INPUT.FORMAT BGR
    python tools/convert.py soco.pth --method soco --dataset coco_2017_train --epochs 400

The source of the file is recognised by the structure of its names; nothing in it is run.
docs/checkpoints.md lists the known sources.
"""

import argparse
import json
import math
import os
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml

from mls_d2.checkpoint.download import expected_digest, fetch, is_url
from mls_d2.convert import load_backbone
from mls_d2.convert.convert import INPUT_KEYS, TARGETS, check_dst, write_converted
from mls_d2.convert.detector_parts import PARTS
from mls_d2.convert.inspection import inspect_file
from mls_d2.convert.sources import published_table, sources_table
from mls_d2.core.errors import UserError, run_tool
from mls_d2.core.files import check_writable

_SHOWN = 4


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("src", metavar="SRC", nargs="?", help="checkpoint, URL, or a folder of checkpoints")
    add("dst", metavar="DST", nargs="?", help="file to write, or folder (default: SRC_d2.pth)")
    add("--source", default="auto", metavar="NAME", help="where it comes from: --list-sources")
    add("--encoder", metavar="PREFIX", help="encoder to take instead of the usual one")
    add("--method", metavar="NAME", help="its name in results and reports")
    add("--dataset", nargs="+", metavar="NAME", help="pretraining data, for reports")
    add("--epochs", type=float, metavar="N", help="epochs of pretraining, for reports")
    add("--to", choices=TARGETS, default="detectron2", help="names to write")
    add("--parts", nargs="+", choices=PARTS, default=[], help="what to take beside the backbone")
    add(
        "--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
        help=f"what the file does not say of its training: {', '.join(INPUT_KEYS)}",
    )  # fmt: skip
    add("--inspect", action="store_true", help="only describe what is in it")
    add("--list-sources", action="store_true", help="print the table of sources")
    add("--json", action="store_true", help="print JSON")
    add("--force", action="store_true", help="overwrite DST")
    add("--no-verify", action="store_true", help="do not compare the networks")
    add("--sha256", metavar="HEX", help="digest of SRC, or a file of `sha256sum` for many files")
    add("--cache-dir", metavar="DIR", help="folder for downloads")
    add(
        "--stub-unknown-objects", action="store_true",
        help="put inert objects in place of those that torch refuses to load",
    )  # fmt: skip
    return parser.parse_args()


def default_dst(src: str, suffix: str) -> str:
    """Return the name to write: beside SRC, or in this folder for a download."""
    path = urlparse(src).path if is_url(src) else src
    stem = Path(path.removesuffix(".tar")).stem or "backbone"
    return os.path.join("" if is_url(src) else os.path.dirname(src), f"{stem}_{suffix}.pth")


def process(src: str, dst: str, args: argparse.Namespace) -> dict[str, Any]:
    """Convert or inspect one file and return what there is to print."""
    if not args.inspect:
        check_dst(dst, args.to, force=args.force)
    path = fetch(src, sha256=expected_digest(src, args.sha256), cache_dir=args.cache_dir)
    if not args.inspect and os.path.realpath(path) == os.path.realpath(dst):
        raise UserError(f"'{dst}' is SRC itself, whose rest would be lost", code="bad-value")
    how = {"source": args.source, "encoder": args.encoder, "stubs": args.stub_unknown_objects}
    if args.inspect:
        return {"src": src} | inspect_file(path, **how)
    known, parts = dict(args.set), tuple(args.parts)
    backbone = load_backbone(path, **how, check=not args.no_verify, parts=parts, trained_on=known)
    given = {"method": args.method, "dataset": args.dataset, "epochs": args.epochs}
    given = {name: value for name, value in given.items() if value is not None}
    backbone.info.update(given)
    same = args.to == "detectron2" and src.endswith(".pkl") == dst.endswith(".pkl") and not given
    ready = backbone.in_detectron2_format and same
    if not ready:
        write_converted(dst, backbone, to=args.to)
    counts = {"tensors": len(backbone.state_dict), "tensors_of_parts": len(backbone.parts)}
    told = {"src": src, "dst": None if ready else dst, "already_detectron2": ready} | counts
    return told | backbone.info | {"left": backbone.left, "config": backbone.config}


def print_conversion(told: dict[str, Any]) -> None:
    """Print what was taken, what was left out and why, and the config that the file needs."""
    print(f"{told['src']}: {told['source_title']} ({told['source']})")
    where = f" in {told['container']}" if told["container"] else ""
    print(f"  taken: {told['tensors']} tensors of '{told['encoder']}'{where}")
    if told["tensors_of_parts"]:
        print(f"  taken: {told['tensors_of_parts']} tensors of FPN and box head")
    if told["note"]:
        print(f"  note: {told['note']}")
    for why, names in told["left"].items():
        more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
        print(f"  left: {why}: {', '.join(names[:_SHOWN])}{more}")
    if told["other_encoders"]:
        print("  other encoders, for --encoder: " + ", ".join(map(repr, told["other_encoders"])))
    if told["verified"] is not None:
        print(f"  verified: every stage agrees with the original to {told['verified']:.1e}")
    config = yaml.safe_dump(told["config"], sort_keys=False, default_flow_style=None)
    print("  it needs this config:\n" + textwrap.indent(config, "    "), end="")
    as_it_is = f"nothing to convert: '{told['src']}' is in Detectron2's format; use it as it is"
    print(as_it_is if told["already_detectron2"] else f"wrote {told['dst']}")


def process_folder(args: argparse.Namespace) -> int:
    """Convert or inspect each file of a folder; files that are refused do not stop it."""
    if args.dst is None and not args.inspect:
        raise UserError("give a folder DST for the converted files", code="missing-file")
    if args.dst is not None:
        check_writable(args.dst)
    rows: list[dict[str, Any]] = []
    for path in sorted(path for path in Path(args.src).iterdir() if path.is_file()):
        dst = os.path.join(args.dst or "", f"{Path(path.name.removesuffix('.tar')).stem}.pth")
        try:
            if dst in [row.get("dst") for row in rows]:
                problem = f"'{dst}' is of another file here; rename one of them"
                raise UserError(problem, code="bad-value")
            rows.append(process(str(path), dst, args))
        except UserError as error:
            rows.append({"src": str(path), "refused": str(error)})
        if not args.json:
            print(line_of(path.name, rows[-1]), flush=True)
    failed = sum("refused" in row for row in rows)
    what = "recognised" if args.inspect else "converted"
    print(
        json.dumps(rows, indent=2) if args.json else f"{len(rows) - failed} of {len(rows)} {what}"
    )
    return 2 if failed else 0


def line_of(name: str, row: dict[str, Any]) -> str:
    """Return a line of the table of a folder's files."""
    if "refused" in row:
        return f"{name:40s} refused: {row['refused'].splitlines()[0]}"
    depth = f"ResNet-{row['architecture']['depth']}" if "architecture" in row else row["taken"]
    ready = "  already in Detectron2's format" if row.get("already_detectron2") else ""
    return f"{name:40s} {row['source']:24s} {depth}{ready}"


def main() -> int:
    """Convert or describe what the command line names."""
    args = parse_args()
    if args.list_sources:
        print(sources_table() + "\n" + published_table(), end="")
        return 0
    if args.src is None:
        message = "give what to convert: tools/convert.py SRC [DST]; --help lists the options"
        raise UserError(message, code="missing-file")
    if args.epochs is not None and not 0 < args.epochs < math.inf:
        message = f"--epochs must be a number above 0, got {args.epochs:g}"
        raise UserError(message, code="bad-value")
    if args.inspect and args.dst is not None:
        raise UserError("--inspect writes nothing; leave out DST", code="bad-value")
    if os.path.isdir(args.src):
        return process_folder(args)
    suffix = "d2" if args.to == "detectron2" else args.to
    told = process(args.src, args.dst or default_dst(args.src, suffix), args)
    if args.json:
        print(json.dumps(told, indent=2))
    elif args.inspect:
        print(yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=100), end="")
    else:
        print_conversion(told)
    return 0


if __name__ == "__main__":
    run_tool(main)
