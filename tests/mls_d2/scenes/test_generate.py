"""A root as a whole: the same bytes from any number of processes, resumed, extended, refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mls_d2.core.errors import UserError
from mls_d2.scenes import SceneParams, coco, generate, read_marker
from mls_d2.scenes.generate import all_splits, picture_of

SMALL = {"seed": 1, "train": 18, "val": 2, "unlabeled": 0, "size": (40, 32)}


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture(scope="module")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    root = tmp_path_factory.mktemp("small") / "root"
    generate(root, num_workers=1, **SMALL)
    return root


def test_the_bytes_do_not_depend_on_the_number_of_processes(small_root: Path, tmp_path: Path):
    generate(tmp_path / "root", num_workers=3, **SMALL)
    assert digests(tmp_path / "root") == digests(small_root)


def test_more_images_begin_with_the_same_ones(small_root: Path, tmp_path: Path):
    generate(tmp_path / "root", num_workers=1, **{**SMALL, "train": 20})
    few = sorted((small_root / "coco" / "train2017").iterdir())
    many = sorted((tmp_path / "root" / "coco" / "train2017").iterdir())
    assert (len(few), len(many)) == (18, 20)
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(few, many, strict=False))


def test_seeds_and_splits_have_scenes_of_their_own():
    params = SceneParams(seed=0, voc=4, cityscapes=2, size=(32, 32))
    images = [picture_of(0, split, 0).image for split in all_splits(params)]
    images.append(picture_of(1, all_splits(params)[0], 0).image)
    square = [image.tobytes() for image in images]
    assert len(set(square)) == len(square) == 3 + 3 + 2 + 1


def test_the_marker_holds_all_parameters(small_root: Path):
    assert read_marker(small_root) == {
        "format": 3,
        "synthetic": True,
        **{"seed": 1, "train": 18, "val": 2, "unlabeled": 0, "voc": 0, "cityscapes": 0},
        "size": [40, 32],
        "finished": ["coco/train2017", "coco/val2017"],
        "complete": True,
    }


def test_a_folder_without_a_marker_is_not_known_to_be_synthetic(tmp_path: Path):
    assert read_marker(tmp_path) is None
    assert read_marker(tmp_path / "missing") is None


def test_a_complete_root_is_left_alone(small_root: Path, caplog: pytest.LogCaptureFixture):
    before = {path: path.stat().st_mtime_ns for path in small_root.rglob("*")}
    with caplog.at_level("INFO"):
        generate(small_root, num_workers=1, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in small_root.rglob("*")} == before
    assert "already has these scenes: coco/train2017, coco/val2017" in caplog.text


def test_an_interrupted_root_is_finished(
    small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "root"
    real_save, calls = coco._save, []

    def interrupted_save(*args, **kwargs):
        calls.append(args[2])
        if len(calls) == 20:  # the second image of val
            raise KeyboardInterrupt
        return real_save(*args, **kwargs)

    monkeypatch.setattr(coco, "_save", interrupted_save)
    with pytest.raises(KeyboardInterrupt):
        generate(root, num_workers=1, **SMALL)
    marker = read_marker(root)
    assert (marker["finished"], marker["complete"]) == (["coco/train2017"], False)
    assert not (root / "coco" / "annotations" / "instances_val2017.json").exists()

    monkeypatch.setattr(coco, "_save", real_save)
    train = root / "coco" / "train2017"
    before = {path: path.stat().st_mtime_ns for path in train.iterdir()}
    (root / "coco" / "val2017" / ".tmp-leftover").write_bytes(b"half")
    generate(root, num_workers=1, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in train.iterdir()} == before
    assert digests(root) == digests(small_root)


def test_a_root_can_be_extended(small_root: Path, tmp_path: Path):
    root = tmp_path / "root"
    generate(root, num_workers=1, **{**SMALL, "val": 0})
    generate(root, num_workers=1, **{**SMALL, "train": 0})  # keeps train, adds val
    assert digests(root) == digests(small_root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "seed is 1 there, 2 wanted"),
        ({"train": 19, "seed": 7}, "seed is 1 there, 7 wanted; train is 18 there, 19 wanted"),
        ({"size": (32, 32)}, r"size is \(40, 32\) there, \(32, 32\) wanted"),
    ],
)
def test_other_parameters_are_refused(small_root: Path, change: dict, message: str):
    before = digests(small_root)
    with pytest.raises(UserError, match=message):
        generate(small_root, num_workers=1, **{**SMALL, **change})
    assert digests(small_root) == before


def test_a_foreign_folder_is_refused(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty and has no scenes.json"):
        generate(tmp_path, num_workers=1, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_size_may_be_a_list(small_root: Path):
    generate(small_root, num_workers=1, **{**SMALL, "size": [40, 32]})
    assert SceneParams(size=[40, 32]) == SceneParams(size=(40, 32))


def test_an_empty_folder_is_welcome(small_root: Path, tmp_path: Path):
    generate(tmp_path, num_workers=1, **SMALL)
    assert digests(tmp_path) == digests(small_root)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 2}'])
def test_a_broken_marker_is_refused(tmp_path: Path, text: str):
    (tmp_path / "scenes.json").write_text(text)
    with pytest.raises(UserError, match=r"scenes\.json .*make the scenes again"):
        generate(tmp_path, num_workers=1, **SMALL)


def test_a_root_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, expected a folder"):
        generate(tmp_path / "file", num_workers=1, **SMALL)
    with pytest.raises(UserError, match="cannot make the folder"):
        generate(tmp_path / "file" / "root", num_workers=1, **SMALL)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"train": -1}, "train is -1, expected 0 or more"),
        ({"voc": 3}, "voc is 3, expected 0, or 4 or more"),
        ({"size": (16, 64)}, r"size is \(16, 64\), expected width and height of 32 to 4096"),
    ],
)
def test_bad_parameters_are_refused(tmp_path: Path, parameters: dict, message: str):
    with pytest.raises(UserError, match=message):
        generate(tmp_path / "root", num_workers=1, **parameters)
    assert not (tmp_path / "root").exists()


_UNGUARDED = """
import sys
from mls_d2.scenes import generate
from mls_d2.core.errors import UserError
try:
    generate(sys.argv[1], train=17, val=0, unlabeled=0, size=(32, 32), num_workers=2)
except UserError as error:
    print(error)
"""


def test_a_worker_that_dies_is_a_message(tmp_path: Path):
    # New processes import the script, which would start processes again: Python stops them.
    script = tmp_path / "unguarded.py"
    script.write_text(_UNGUARDED)
    command = [sys.executable, str(script), str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "a worker process died" in done.stdout
    assert "try num_workers=1" in done.stdout


_LOAD_BY_NAME = """
import json, sys
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_instances
names = ["coco_2017_train", "coco_2017_val", "voc_2007_trainval", "voc_2007_train",
         "voc_2007_test", "voc_2012_trainval", "cityscapes_fine_sem_seg_train",
         "cityscapes_fine_sem_seg_val"]
if __name__ == "__main__":
    sizes = {name: len(DatasetCatalog.get(name)) for name in names}
    root = sys.argv[1] + "/cityscapes/"
    found = load_cityscapes_instances(root + "leftImg8bit/train", root + "gtFine/train", False)
    sizes["instances"] = sum(len(item["annotations"]) for item in found)
    print(json.dumps(sizes))
"""


@pytest.mark.slow
def test_detectron2s_builtin_names_load_the_root(tiny_root: Path, tmp_path: Path):
    script = tmp_path / "load.py"
    script.write_text(_LOAD_BY_NAME)
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tiny_root)}
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_root)],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout.splitlines()[-1])
    # Instances of one pixel's width have no box for Detectron2, so their number is a lower bound.
    assert sizes.pop("instances") >= 6
    assert sizes == {
        "coco_2017_train": 5, "coco_2017_val": 2, "voc_2007_trainval": 4, "voc_2007_train": 2,
        "voc_2007_test": 4, "voc_2012_trainval": 4, "cityscapes_fine_sem_seg_train": 6,
        "cityscapes_fine_sem_seg_val": 1,
    }  # fmt: skip


def test_a_scene_is_a_pure_function_of_its_seed():
    split = coco.splits(SceneParams(size=(48, 48)))[0]
    first, again = picture_of(5, split, 7), picture_of(5, split, 7)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.ids, again.ids)
