"""The console scripts of the installed package: each starts one of the tools.

A tool runs as a process of its own file, as in a clone and in the runner, so that it behaves alike.
"""

import os
import sys
from pathlib import Path

from mls_d2.core.resources import root

COMMANDS: dict[str, tuple[str, ...]] = {
    "mls-pretrain": ("pretrain.py",),
    "mls-train": ("train_net.py",),
    "mls-convert": ("convert.py",),
    "mls-hub": ("hub.py",),
    "mls-benchmark": ("benchmark.py",),
    "mls-report": ("report.py",),
    "mls-figures": ("figures.py",),
    "mls-predict": ("demo.py",),
    "mls-data": ("prepare_data.py",),
    "mls-scenes": ("make_scenes.py",),
    "mls-shards": ("pack_shards.py",),
    "mls-propose": ("propose.py",),
    "mls-gpu-check": ("gpu_check.py",),
    "mls-detectron2": ("provide_detectron2.py",),
    # What `make demo` runs.
    "mls-demo": ("benchmark.py", "--follow", "--methods", "mls random", "--tasks", "demo"),
}
"""The tool that each script starts, and the words before those of its command line."""


def main() -> None:
    """Replace this process by the tool of the script's name, with the same arguments."""
    tool, *words = COMMANDS[Path(sys.argv[0]).stem]
    path = str(root() / "tools" / tool)
    os.execv(sys.executable, [sys.executable, path, *words, *sys.argv[1:]])
