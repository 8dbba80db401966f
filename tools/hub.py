#!/usr/bin/env python3
"""Share backbones with their model cards: on the Hugging Face Hub, in folders, on file servers.

Examples:
    tools/hub.py push output/quick/mls/backbone.pth hf://org/mls-r50 --license apache-2.0 \
        --results output/quick
    tools/hub.py pull hf://org/mls-r50@main mls-r50
    tools/hub.py pull https://example.org/zoo/mls-r50
    tools/hub.py list hf://org

hf:// needs huggingface_hub (pip install 'mls_d2[hub]'). A pushed backbone is used without a pull,
too: MODEL.WEIGHTS hf://org/mls-r50.
"""

import argparse
from pathlib import Path

from mls_d2.core.errors import run_tool
from mls_d2.hub import list_backbones, pull, push


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("push", help="write weights, card and config").add_argument
    add("file", metavar="FILE", help="a backbone file")
    add("dst", metavar="DST", help="hf://org/name[@branch], or a new folder")
    add("--license", required=True, metavar="ID", help="of the weights, such as apache-2.0")
    add(
        "--results", nargs="+", type=Path, default=[], metavar="DIR",
        help="folders of finished runs; the card shows those that started from FILE",
    )  # fmt: skip
    add = commands.add_parser("pull", help="copy them here, and compare the sha256").add_argument
    add("src", metavar="SRC", help="hf://org/name[@revision], a folder or its URL")
    add("dst", metavar="DST", nargs="?", help="a new folder (default: the name)")
    add = commands.add_parser("list", help="what was pushed").add_argument
    add("src", metavar="SRC", help="hf://org, a folder, or the URL of one")
    return parser.parse_args()


def main() -> None:
    """Push, pull or list."""
    args = parse_args()
    if args.command == "push":
        dst = args.dst.rstrip("/")
        digest = push(args.file, dst, licence=args.license, results=args.results)
        print(f"pushed {args.dst}, sha256 {digest}")
        return
    src = args.src.rstrip("/")
    if args.command == "pull":
        dst = args.dst or src.rpartition("/")[2].partition("@")[0]
        print(f"pulled {dst}, sha256 {pull(src, dst)}: verified")
        return
    for place, config in list_backbones(src):
        info = config.get("pretrain", {})
        summary = f"{info.get('method')}, {info.get('epochs')} epochs, {config.get('license')}"
        print(f"{place}: {summary}, sha256 {config['sha256']['model.safetensors'][:12]}")


if __name__ == "__main__":
    run_tool(main)
