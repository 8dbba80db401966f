"""The tool from the command line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from pretrain.sources import ShardSource

TOOL = Path(__file__).resolve().parents[2] / "tools" / "pack_shards.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_folder_is_packed_and_how_to_use_it_is_said(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for index in range(3):
        image = Image.fromarray(np.full((20, 30, 3), index * 50, np.uint8))
        image.save(tmp_path / "images" / f"{index}.png")
    out = str(tmp_path / "shards")
    done = run(str(tmp_path / "images"), "--out", out, "--per-shard", "2", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert f"DATASETS.TRAIN \"('{out}',)\"" in done.stdout
    assert ShardSource(out).counts.tolist() == [2, 1]


def test_what_is_missing_is_one_line(tmp_path: Path):
    for arguments in ([], ["--out", str(tmp_path)], ["a", "--index", str(tmp_path)]):
        done = run(*arguments)
        assert done.returncode == 2
        assert "give either datasets and --out, or --index FOLDER" in done.stderr
    assert run("nowhere", "--out", str(tmp_path)).stderr.startswith("error: 'nowhere' is neither")
