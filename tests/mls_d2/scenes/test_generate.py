"""A root as a whole: the same bytes from any number of processes, resumed, extended, refused."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets import builtin
from detectron2.data.datasets.builtin import _RAW_CITYSCAPES_SPLITS as CITIES

from mls_d2.scenes import SceneParams, generate, read_marker
from mls_d2.scenes.generate import picture_of
from mls_d2.scenes.layouts import Split, all_splits

SMALL = {"seed": 1, "train": 18, "val": 2, "unlabeled": 0, "size": (40, 32)}


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def mtimes(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    root = tmp_path_factory.mktemp("small") / "root"
    generate(root, num_workers=1, **SMALL)
    return root


def test_the_bytes_do_not_depend_on_the_number_of_processes(small_root: Path, tmp_path: Path):
    generate(tmp_path / "root", num_workers=2, **SMALL)
    assert digests(tmp_path / "root") == digests(small_root)


def test_every_image_depends_on_seed_split_and_index_alone():
    params = SceneParams(seed=0, voc=4, cityscapes=2, size=(32, 32))
    pictures = [picture_of(0, split, 0) for split in all_splits(params)]
    pictures.append(picture_of(1, all_splits(params)[0], 0))
    assert len({picture.image.tobytes() for picture in pictures}) == 3 + 3 + 2 + 1
    again = picture_of(0, all_splits(dataclasses.replace(params, train=7))[0], 0)
    np.testing.assert_array_equal(again.image, pictures[0].image)
    np.testing.assert_array_equal(again.ids, pictures[0].ids)


def test_the_marker_holds_all_parameters(small_root: Path, tmp_path: Path):
    assert read_marker(small_root) == {
        "format": 4,
        "synthetic": True,
        **{"seed": 1, "train": 18, "val": 2, "unlabeled": 0, "voc": 0, "cityscapes": 0},
        "size": [40, 32],
        "finished": ["coco/train2017", "coco/val2017"],
        "complete": True,
    }
    assert read_marker(tmp_path) is None
    assert read_marker(tmp_path / "missing") is None


def test_a_complete_root_is_left_alone(small_root: Path):
    before = mtimes(small_root)
    generate(small_root, num_workers=1, **{**SMALL, "size": [40, 32]})
    assert mtimes(small_root) == before


def test_an_interrupted_root_is_resumed(
    small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root, calls, draw = tmp_path / "root", [], picture_of

    def interrupted(seed: int, split: Split, index: int):
        calls.append(index)
        if len(calls) == 20:  # the second image of val
            raise KeyboardInterrupt
        return draw(seed, split, index)

    monkeypatch.setattr(sys.modules[generate.__module__], "picture_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(root, num_workers=1, **SMALL)
    marker = read_marker(root)
    assert (marker["finished"], marker["complete"]) == (["coco/train2017"], False)
    assert not (root / "coco" / "annotations" / "instances_val2017.json").exists()

    before = mtimes(root / "coco" / "train2017")
    (root / "coco" / "val2017" / ".tmp-leftover").write_bytes(b"half")
    generate(root, num_workers=1, **SMALL)
    assert mtimes(root / "coco" / "train2017") == before
    assert digests(root) == digests(small_root)


def test_a_root_can_be_extended(small_root: Path, tmp_path: Path):
    # Into an empty folder first.
    generate(tmp_path, num_workers=1, **{**SMALL, "val": 0})
    generate(tmp_path, num_workers=1, **{**SMALL, "train": 0})  # keeps train, adds val
    assert digests(tmp_path) == digests(small_root)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 2}, "seed is 1 there, 2 wanted"),
        ({"train": 19, "seed": 7}, "seed is 1 there, 7 wanted; train is 18 there, 19 wanted"),
        ({"size": (32, 32)}, "size is (40, 32) there, (32, 32) wanted"),
    ],
)
def test_other_parameters_are_refused(small_root: Path, refuses, change: dict, named: str):
    before = digests(small_root)
    with refuses("other-parameters", named):
        generate(small_root, num_workers=1, **{**SMALL, **change})
    assert digests(small_root) == before


def test_a_foreign_folder_is_refused(tmp_path: Path, refuses):
    (tmp_path / "thesis.txt").write_text("years of work")
    with refuses("foreign-folder"):
        generate(tmp_path, num_workers=1, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_a_killed_process_began_is_not_foreign(tmp_path: Path, small_root: Path):
    (tmp_path / ".tmp-scenes.json-x").touch()
    generate(tmp_path, num_workers=1, **SMALL)
    assert digests(tmp_path) == digests(small_root)


OTHERS = [
    ("[]", "other-version"),
    *((f'{{"format": {n}}}', "other-version") for n in (1, 3, 4, 99)),
]


@pytest.mark.parametrize(("text", "code"), [("{", "damaged-file"), *OTHERS])
def test_a_damaged_or_old_marker_is_refused(tmp_path: Path, refuses, text: str, code: str):
    (tmp_path / "scenes.json").write_text(text)
    for action in (
        lambda: generate(tmp_path, num_workers=1, **SMALL),
        lambda: read_marker(tmp_path),
    ):
        with refuses(code, f"delete {tmp_path} and make the scenes again"):
            action()


def test_a_root_below_a_file_is_refused(tmp_path: Path, refuses):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "root"):
        with refuses("unwritable"):
            generate(root, num_workers=1, **SMALL)


@pytest.mark.parametrize("parameters", [{"train": -1}, {"voc": 3}, {"size": (16, 64)}])
def test_bad_parameters_are_refused(tmp_path: Path, refuses, parameters: dict):
    (name, value), *_ = parameters.items()
    with refuses("bad-value", f"{name} is {value}"):
        generate(tmp_path / "root", num_workers=1, **parameters)
    assert not (tmp_path / "root").exists()


_UNGUARDED = """
import sys
from mls_d2.scenes import generate
from mls_d2.core.errors import UserError
try:
    generate(sys.argv[1], train=17, val=0, unlabeled=0, size=(32, 32), num_workers=2)
except UserError as error:
    print(error.code)
"""


def test_a_worker_that_dies_is_a_message(tmp_path: Path):
    # New processes import the script, which would start processes again: Python stops them.
    script = tmp_path / "unguarded.py"
    script.write_text(_UNGUARDED)
    command = [sys.executable, str(script), str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["dead-worker"]


def test_files_lie_where_detectron2s_builtin_names_look(tiny_root: Path):
    coco = builtin._PREDEFINED_SPLITS_COCO["coco"]
    paths = [*coco["coco_2017_train"], *coco["coco_2017_val"]]
    paths += [
        path for name in ("train", "val") for path in CITIES[f"cityscapes_fine_{{task}}_{name}"]
    ]
    sets = (("2007", "train"), ("2007", "val"), ("2007", "test"), ("2012", "trainval"))
    paths += [f"VOC{year}/ImageSets/Main/{name}.txt" for year, name in sets]
    assert [path for path in paths if not (tiny_root / path).exists()] == []
