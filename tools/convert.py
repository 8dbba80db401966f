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

What the file is from is recognised by the structure of its names; nothing in it is run.
docs/checkpoints.md lists what is known.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml

from mls_d2.checkpoint.backbone_file import sha256
from mls_d2.convert import Backbone, load_backbone
from mls_d2.convert.convert import INPUT_KEYS, TARGETS, check_target, write_converted
from mls_d2.convert.download import fetch, is_url
from mls_d2.convert.inspection import inspect_file
from mls_d2.convert.parts import PARTS
from mls_d2.convert.sources import published_table, sources_table
from mls_d2.core.errors import UserError, run_tool
from mls_d2.core.files import check_writable

_SHOWN = 4


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "src", metavar="SRC", nargs="?", help="checkpoint, URL, or a folder of them"
    )
    parser.add_argument(
        "dst", metavar="DST", nargs="?", help="file to write, or folder (default: SRC_d2.pth)"
    )
    parser.add_argument("--source", default="auto", metavar="NAME", help="what it is from")
    parser.add_argument("--encoder", metavar="PREFIX", help="encoder to take, whatever is usual")
    parser.add_argument("--method", metavar="NAME", help="what results and reports call it")
    parser.add_argument(
        "--dataset", nargs="+", metavar="NAME", help="what it was pretrained on, for reports"
    )
    parser.add_argument(
        "--epochs", type=float, metavar="N", help="how long it was pretrained, for reports"
    )
    parser.add_argument("--to", choices=TARGETS, default="detectron2", help="names to write")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=[], help="what to take beside the backbone"
    )
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help=f"what you know of its training and the file does not say: {', '.join(INPUT_KEYS)}",
    )
    parser.add_argument("--inspect", action="store_true", help="only explain what is in it")
    parser.add_argument("--list-sources", action="store_true", help="print the table of sources")
    parser.add_argument("--json", action="store_true", help="say it as JSON")
    parser.add_argument("--force", action="store_true", help="overwrite DST")
    parser.add_argument("--no-verify", action="store_true", help="do not compare the networks")
    parser.add_argument(
        "--sha256",
        metavar="HEX",
        help="refuse a file with another digest; a file of `sha256sum` for many",
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="where downloads are kept")
    parser.add_argument(
        "--stub-unknown-objects",
        action="store_true",
        help="put inert objects in place of those that torch refuses to load",
    )
    return parser.parse_args()


def default_dst(src: str, to: str) -> str:
    """Return the name to write to: beside SRC, or in this folder for a download."""
    path = urlparse(src).path if is_url(src) else src
    stem = Path(path.removesuffix(".tar")).stem or "backbone"
    folder = "" if is_url(src) else os.path.dirname(src)
    return os.path.join(folder, f"{stem}_{'d2' if to == 'detectron2' else to}.pth")


def check_dst(dst: str, args: argparse.Namespace) -> None:
    """Refuse, before any work, what could not be written at its end."""
    check_target(dst, args.to)
    if os.path.isdir(dst):
        raise UserError(
            f"'{dst}' is a folder; name the file to write, such as '{dst}/backbone.pth'"
        )
    if os.path.exists(dst) and not args.force:
        raise UserError(f"'{dst}' exists; take another name, or --force to overwrite it")
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(dst) or "."):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to '{dst}': {error.strerror}; choose another folder"
        ) from None


def expected_digest(src: str, given: str | None) -> str | None:
    """Return the digest for ``src`` in ``--sha256``: the value itself, or by name in a list."""
    if given is None or re.fullmatch(r"[0-9a-fA-F]{64}", given):
        return given
    if not os.path.isfile(given):
        raise UserError(
            f"--sha256 is '{given}', expected 64 hex digits, or a file that `sha256sum` wrote"
        )
    name = os.path.basename(urlparse(src).path if is_url(src) else src)
    for line in Path(given).read_text(encoding="utf-8").splitlines():
        digest, _, file = line.partition(" ")
        if os.path.basename(file.strip().lstrip("*")) == name:
            return digest
    raise UserError(f"'{given}' has no line for '{name}'")


def local_file(src: str, args: argparse.Namespace) -> str:
    """Return SRC as a local file with the expected digest."""
    expected = expected_digest(src, args.sha256)
    path = fetch(src, sha256=expected, cache_dir=args.cache_dir)
    if expected is not None:
        sha256(path)  # Says so where there is no such file.
    return path


def convert(src: str, dst: str, args: argparse.Namespace) -> Backbone:
    """Convert one file; nothing is written where Detectron2 reads it as it is."""
    check_dst(dst, args)
    backbone = load_backbone(
        local_file(src, args),
        source=args.source,
        encoder=args.encoder,
        check=not args.no_verify,
        stubs=args.stub_unknown_objects,
        parts=tuple(args.parts),
        trained_on={key: parse_value(key, value) for key, value in args.set},
    )
    backbone.info.update(said_of_pretraining(args))
    if not is_ready(src, dst, backbone, args):
        write_converted(dst, backbone, to=args.to)
    return backbone


def said_of_pretraining(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the user says of the pretraining, named as pretraining names it in its files."""
    given = {"method": args.method, "dataset": args.dataset, "epochs": args.epochs}
    return {name: value for name, value in given.items() if value is not None}


def parse_value(key: str, text: str) -> Any:
    """Read a value as a config's is read: ``True``, ``BGR``, ``[0, 0, 0]``."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{key} is '{text}', which is no value of a config") from None


def is_ready(src: str, dst: str, backbone: Backbone, args: argparse.Namespace) -> bool:
    """Whether the conversion would only copy SRC."""
    same = src.endswith(".pkl") == dst.endswith(".pkl") and not said_of_pretraining(args)
    return args.to == "detectron2" and backbone.in_detectron2_format and same


def tell(src: str, dst: str, backbone: Backbone, args: argparse.Namespace) -> None:
    """Print what was taken, what was left and why, and the config that must travel with it."""
    info = backbone.info
    ready = is_ready(src, dst, backbone, args)
    if args.json:
        told = {"src": src, "dst": None if ready else dst, "already_detectron2": ready} | info
        told |= {"left": backbone.left, "config": backbone.config}
        print(json.dumps(told, indent=2))
        return
    print(f"{src}: {info['source_title']} ({info['source']})")
    where = f" in {info['container']}" if info["container"] else ""
    print(f"  taken: {len(backbone.state_dict)} tensors of '{info['encoder']}'{where}")
    if backbone.parts:
        print(f"  taken: {len(backbone.parts)} tensors of {' and '.join(args.parts)}")
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
    if ready:
        print(f"nothing to convert: '{src}' is in Detectron2's format already; use it as it is")
    else:
        print(f"wrote {dst}")


def inspect(src: str, args: argparse.Namespace) -> None:
    """Print what is in a file."""
    found = inspect_file(
        local_file(src, args),
        source=args.source,
        encoder=args.encoder,
        stubs=args.stub_unknown_objects,
    )
    if args.json:
        print(json.dumps({"src": src, **found}, indent=2))
        return
    print(f"{src}: {found['bytes']} bytes, sha256 {found['sha256']}")
    print("  entries: " + ", ".join(f"{name} ({kind})" for name, kind in found["entries"].items()))
    for where, names in found["tensors"].items():
        more = ", …" if names["count"] > len(names["first"]) else ""
        print(f"  tensors in {where}: {names['count']} ({', '.join(names['first'])}{more})")
    for label, text in found["encoders"].items():
        print(f"  encoder '{label}': {text}")
    if "refused" in found:
        print(f"  would be refused: {found['refused']}")
    else:
        print(
            f"  would be taken: '{found['taken']}', as of {found['source_title']}"
            f" ({found['source']})"
        )


def convert_folder(args: argparse.Namespace) -> int:
    """Convert every file of a folder and print a table; files that are refused do not stop it."""
    files = sorted(path for path in Path(args.src).iterdir() if path.is_file())
    if args.dst is None and not args.inspect:
        raise UserError("give a folder DST for what is converted")
    if args.dst is not None:
        check_writable(args.dst)
    rows: list[dict[str, Any]] = []
    written: set[str] = set()
    for path in files:
        row: dict[str, Any] = {"src": str(path)}
        try:
            if args.inspect:
                found = inspect_file(local_file(str(path), args), stubs=args.stub_unknown_objects)
                row |= {"refused": found["refused"]} if "refused" in found else found
            else:
                row |= _convert_in_folder(path, written, args)
        except UserError as error:
            row["refused"] = str(error)
        rows.append(row)
        if not args.json:
            print(_line(path.name, row), flush=True)
    failed = sum("refused" in row for row in rows)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        what = "recognised" if args.inspect else "converted"
        print(f"{len(files) - failed} of {len(files)} {what}")
    return 2 if failed else 0


def _convert_in_folder(path: Path, written: set[str], args: argparse.Namespace) -> dict[str, Any]:
    stem = Path(path.name.removesuffix(".tar")).stem
    dst = str(Path(args.dst) / f"{stem}.pth")
    if dst in written:
        raise UserError(f"'{dst}' is of another file here; rename one of them")
    backbone = convert(str(path), dst, args)
    written.add(dst)
    ready = is_ready(str(path), dst, backbone, args)
    return {"dst": None if ready else dst, "already_detectron2": ready, **backbone.info}


def _line(name: str, row: dict[str, Any]) -> str:
    if "refused" in row:
        return f"{name:40s} refused: {row['refused'].splitlines()[0]}"
    depth = f"ResNet-{row['architecture']['depth']}" if "architecture" in row else row["taken"]
    ready = "  already in Detectron2's format" if row.get("already_detectron2") else ""
    return f"{name:40s} {row['source']:24s} {depth}{ready}"


def main() -> int:
    """Convert or explain what the command line names."""
    args = parse_args()
    if args.list_sources:
        print(sources_table() + "\n" + published_table(), end="")
        return 0
    if args.src is None:
        raise UserError("say what to convert: tools/convert.py SRC [DST]; --help lists the options")
    if args.epochs is not None and not 0 < args.epochs < math.inf:
        raise UserError(f"--epochs must be a number above 0, got {args.epochs:g}")
    if args.inspect and args.dst is not None:
        raise UserError("--inspect writes nothing; leave DST away")
    if os.path.isdir(args.src):
        return convert_folder(args)
    if args.inspect:
        inspect(args.src, args)
        return 0
    dst = args.dst or default_dst(args.src, args.to)
    tell(args.src, dst, convert(args.src, dst, args), args)
    return 0


if __name__ == "__main__":
    run_tool(main)
