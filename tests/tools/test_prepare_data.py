"""tools/prepare_data.py says what is there, what is not, and where to get it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "prepare_data.py"


def run_tool(root, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(TOOL), *arguments],
        env=os.environ | {"DETECTRON2_DATASETS": str(root)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_scenes_are_in_order(scenes_root):
    done = run_tool(scenes_root, "coco", "voc")
    assert done.returncode == 0, done.stderr
    assert "ok  coco_2017_train: 16 images, generated scenes; 16 of them read" in done.stdout
    assert "ok  voc_2012_trainval: 8 images" in done.stdout
    assert done.stdout.endswith("all in order\n")


def test_what_is_missing_is_named_with_its_page_and_archive(tmp_path):
    done = run_tool(tmp_path, "voc")
    assert done.returncode == 2
    assert str(tmp_path / "VOC2012" / "ImageSets" / "Main" / "trainval.txt") in done.stdout
    assert "host.robots.ox.ac.uk" in done.stdout
    assert "VOCtest_06-Nov-2007.tar" in done.stdout
    assert done.stdout.endswith("1 not in order: voc\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["cocoo"], "unknown dataset 'cocoo'; did you mean 'coco'"),
        (["--sample", "-1"], "--sample is -1"),
    ],
)
def test_bad_arguments_are_one_message(tmp_path, arguments, problem):
    done = run_tool(tmp_path, *arguments)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_root_is_one_message(tmp_path):
    done = run_tool(tmp_path / "none")
    assert done.returncode == 2
    assert "no folder" in done.stderr
