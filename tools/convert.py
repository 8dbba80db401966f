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

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml

from mls_d2.convert import ConvertedBackbone, load_backbone
from mls_d2.convert.convert import INPUT_KEYS, TARGETS, check_dst, write_converted
from mls_d2.convert.detector_parts import PARTS
from mls_d2.convert.download import expected_digest, fetch, is_url
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


def local_file(src: str, args: argparse.Namespace) -> str:
    """Return SRC as a local file with the expected digest."""
    expected = expected_digest(src, args.sha256)
    return fetch(src, sha256=expected, cache_dir=args.cache_dir)


def convert(src: str, dst: str, args: argparse.Namespace) -> tuple[ConvertedBackbone, bool]:
    """Convert one file; return the backbone, and whether SRC can be used as it is."""
    check_dst(dst, args.to, force=args.force)
    backbone = load_backbone(
        local_file(src, args),
        source=args.source,
        encoder=args.encoder,
        check=not args.no_verify,
        stubs=args.stub_unknown_objects,
        parts=tuple(args.parts),
        trained_on=dict(args.set),
    )
    given = {"method": args.method, "dataset": args.dataset, "epochs": args.epochs}
    given = {name: value for name, value in given.items() if value is not None}
    backbone.info.update(given)
    same = args.to == "detectron2" and src.endswith(".pkl") == dst.endswith(".pkl") and not given
    ready = backbone.in_detectron2_format and same
    if not ready:
        write_converted(dst, backbone, to=args.to)
    return backbone, ready


def print_conversion(src: str, backbone: ConvertedBackbone, parts: list[str]) -> None:
    """Print what was taken, what was left out and why, and the config that the file needs."""
    info = backbone.info
    where = f" in {info['container']}" if info["container"] else ""
    print(f"{src}: {info['source_title']} ({info['source']})")
    print(f"  taken: {len(backbone.state_dict)} tensors of '{info['encoder']}'{where}")
    if backbone.parts:
        print(f"  taken: {len(backbone.parts)} tensors of {' and '.join(parts)}")
    if info["note"]:
        print(f"  note: {info['note']}")
    for why, names in backbone.left.items():
        more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
        print(f"  left: {why}: {', '.join(names[:_SHOWN])}{more}")
    if info["other_encoders"]:
        print("  other encoders, for --encoder: " + ", ".join(map(repr, info["other_encoders"])))
    if info["verified"] is not None:
        print(f"  verified: every stage agrees with the original to {info['verified']:.1e}")
    print("  it needs this config:")
    print("".join(f"    {line}\n" for line in backbone.config_yaml().splitlines()), end="")


def one_file(args: argparse.Namespace) -> None:
    """Convert or describe one file."""
    if args.inspect:
        stubs = args.stub_unknown_objects
        found = inspect_file(
            local_file(args.src, args), source=args.source, encoder=args.encoder, stubs=stubs
        )
        found = {"src": args.src, **found}
        text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=100)
        print(json.dumps(found, indent=2) if args.json else text.rstrip())
        return
    dst = args.dst or default_dst(args.src, "d2" if args.to == "detectron2" else args.to)
    backbone, ready = convert(args.src, dst, args)
    if args.json:
        told = {"src": args.src, "dst": None if ready else dst, "already_detectron2": ready}
        told |= backbone.info | {"left": backbone.left, "config": backbone.config}
        print(json.dumps(told, indent=2))
        return
    print_conversion(args.src, backbone, args.parts)
    as_it_is = f"nothing to convert: '{args.src}' is in Detectron2's format; use it as it is"
    print(as_it_is if ready else f"wrote {dst}")


def row_of(path: Path, used: set[str], args: argparse.Namespace) -> dict[str, Any]:
    """Convert or describe one file of a folder."""
    row: dict[str, Any] = {"src": str(path)}
    try:
        if args.inspect:
            found = inspect_file(local_file(str(path), args), stubs=args.stub_unknown_objects)
            return row | ({"refused": found["refused"]} if "refused" in found else found)
        dst = str(Path(args.dst) / f"{Path(path.name.removesuffix('.tar')).stem}.pth")
        if dst in used:
            raise UserError(f"'{dst}' is of another file here; rename one of them", code="bad-name")
        backbone, ready = convert(str(path), dst, args)
        used.add(dst)
        return row | {"dst": None if ready else dst, "already_detectron2": ready} | backbone.info
    except UserError as error:
        return row | {"refused": str(error)}


def folder(args: argparse.Namespace) -> int:
    """Convert or describe each file of a folder; files that are refused do not stop it."""
    if args.dst is None and not args.inspect:
        raise UserError("give a folder DST for the converted files", code="missing-file")
    if args.dst is not None:
        check_writable(args.dst)
    used: set[str] = set()
    rows = []
    for path in sorted(path for path in Path(args.src).iterdir() if path.is_file()):
        rows.append(row_of(path, used, args))
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
        return folder(args)
    one_file(args)
    return 0


if __name__ == "__main__":
    run_tool(main)
