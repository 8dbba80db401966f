"""The tool from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "make_scenes.py"
COUNTS = ("--train", "2", "--val", "1", "--unlabeled", "1", "--size", "32", "32", "--workers", "1")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_it_writes_a_root_and_a_contact_sheet(tmp_path: Path):
    sheet = tmp_path / "sheet.png"
    done = run("--root", str(tmp_path / "root"), *COUNTS, "--contact-sheet", str(sheet))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"contact sheet: {sheet}\n"
    assert len(list((tmp_path / "root").rglob("*.jpg"))) == 4
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_a_foreign_folder_is_one_line_and_exit_code_2(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("")
    done = run("--root", str(tmp_path), *COUNTS)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
