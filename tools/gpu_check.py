#!/usr/bin/env python3
"""Check a machine before its first long run, in about five minutes; write one JSON file."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

# Python puts this script's folder first, where tools/pretrain.py hides the package pretrain.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch  # noqa: E402 - after the path above

from mls_d2.config.loading import load_cfg  # noqa: E402
from mls_d2.core.errors import UserError, nearest, run_tool  # noqa: E402
from mls_d2.core.files import check_writable, write_json  # noqa: E402
from mls_d2.run.environment import collect_environment  # noqa: E402
from mls_d2.run.gpu_check import FAILED, Check, machine_checks, run_checks  # noqa: E402
from mls_d2.runner.cells import Tools  # noqa: E402
from mls_d2.transfer.gpu_check import transfer_checks  # noqa: E402
from pretrain.gpu_check import (  # noqa: E402
    check_rates,
    check_resume,
    method_checks,
    quick_cfg,
    small_backbone,
    write_images,
)

ROOT = Path(__file__).resolve().parent.parent
EXIT_FAILED = 3
IMAGES = 96
EXAMPLES = """\
examples:
  tools/gpu_check.py
  tools/gpu_check.py --device cpu --only device processes "method mls"

Exit codes: 0 nothing failed, 2 no GPU or an error in the command, 3 a check failed.
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: what means something there")
    add("--only", nargs="+", metavar="NAME", help="these checks alone")
    add("--list", action="store_true", help="print the names of the checks")
    add("--out", default="gpu_check.json", metavar="FILE", help="default: gpu_check.json")
    return parser.parse_args(argv)


def all_checks(device: torch.device, folder: Path) -> dict[str, Check]:
    """Return all checks by name; ``folder`` is for what they write."""
    data = {"DATASETS__TRAIN": f"('{folder / 'images'}',)", "MODEL__DEVICE": device.type}

    def rates() -> str:
        if device.type == "cpu":
            cfg = quick_cfg(ROOT, "mls", **data, SOLVER__IMS_PER_BATCH=8)
            return check_rates(cfg, device, batches=2)
        path = str(ROOT / "pretrain/configs/mls_coco_400ep.yaml")
        words = ["DATASETS.TRAIN", data["DATASETS__TRAIN"], "SOLVER.IMS_PER_BATCH", "32"]
        return check_rates(load_cfg(path, words), device)

    tool = Tools.below(ROOT).pretrain
    return {
        **machine_checks(device, small_backbone(ROOT)),
        **method_checks(ROOT, device),
        **transfer_checks(ROOT, device),
        "loader and step": rates,
        "kill and resume": lambda: check_resume(tool, ROOT, folder, device),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks."""
    args = parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "PyTorch finds no GPU on this machine; --device cpu runs what means something on a CPU",
            code="no-gpu",
        )
    check_writable(str(Path(args.out).absolute().parent))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checks = all_checks(torch.device(args.device), folder)
        for wrong in set(args.only or ()) - checks.keys():
            raise UserError(f"no check '{wrong}'; {nearest(wrong, checks)}", code="unknown-name")
        if args.list:
            sys.stdout.write("\n".join(checks) + "\n")
            return 0
        write_images(folder / "images", IMAGES)
        findings = []
        for finding in run_checks({n: checks[n] for n in args.only or checks}):
            sys.stdout.write(f"{finding.line()}\n")
            sys.stdout.flush()
            findings.append(finding)
    write_json(args.out, {**collect_environment(), "checks": [asdict(item) for item in findings]})
    failed = [finding.name for finding in findings if finding.state == FAILED]
    sys.stdout.write(f"{len(failed)} of {len(findings)} checks failed; wrote {args.out}\n")
    return EXIT_FAILED if failed else 0


if __name__ == "__main__":
    run_tool(main)
