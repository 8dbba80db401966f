"""Making proposals: the same file by any number of processes, interrupted or not."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import pretrain.proposing as proposing
from mls_d2.core.workers import worker_map
from mls_d2.data.proposals import Proposals
from pretrain.methods import METHODS
from pretrain.packing import Packing, pack
from pretrain.proposing import Search, default_path, make_proposals, provide_proposals
from pretrain.run import pretrain
from pretrain.sources import FileSource, ShardSource
from tests.conftest import REPOSITORY
from tests.pretrain.conftest import write_images

needs_contrib = pytest.mark.skipif(
    not hasattr(cv2, "ximgproc"), reason="needs opencv-contrib-python-headless"
)


def corners(pixels: np.ndarray, *, short_side: int) -> np.ndarray:
    """Stand in for the search: boxes that the size and the first pixel decide."""
    height, width = pixels.shape[:2]
    first = int(pixels[0, 0, 0]) % 5
    sides = np.arange(first, 20)[:, None]
    return np.concatenate([np.zeros((len(sides), 2)), sides + [[0, short_side]]], axis=1).astype(
        int
    )


@pytest.fixture
def searched(monkeypatch):
    monkeypatch.setattr(proposing, "opencv_search", lambda: None)
    monkeypatch.setattr(proposing, "selective_search", corners)


@pytest.fixture
def in_this_process(monkeypatch):
    def run(function, workers, *, advice, busy_s):
        return worker_map(function, 0, advice=advice)

    monkeypatch.setattr(proposing, "worker_map", run)


@pytest.fixture
def source(images) -> FileSource:
    return FileSource(sorted(map(str, images.iterdir())))


SEARCH = Search(short_side=3, min_side=10, seed=4)


def end_this_process(_: int) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


@pytest.mark.usefixtures("searched")
def test_boxes_are_those_of_the_search_that_are_large_enough_in_a_random_order(source, tmp_path):
    path = str(tmp_path / "a.boxes")
    proposals = provide_proposals(source, path, SEARCH)
    orders = set()
    for place in range(9):
        boxes = proposals.boxes(place)
        wide = np.asarray(corners(np.asarray(Image.open(source.name(place))), short_side=3))
        assert sorted(boxes.tolist()) == wide[wide[:, 2] >= 10].tolist()
        orders.add(tuple(boxes[:, 2]))
    assert len(orders) == 9
    again = provide_proposals(source, str(tmp_path / "b.boxes"), SEARCH)
    assert again.boxes(5).tolist() == proposals.boxes(5).tolist()
    other = provide_proposals(source, str(tmp_path / "c"), Search(short_side=3, min_side=10))
    assert other.boxes(5).tolist() != proposals.boxes(5).tolist()


@pytest.mark.usefixtures("searched")
def test_an_interrupted_call_goes_on_and_gives_the_same_file(source, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    make_proposals(source, str(whole), SEARCH)
    read, seen = source.read, []

    def failing(position: int) -> bytes:
        seen.append(position)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return read(position)

    monkeypatch.setattr(source, "read", failing)
    with pytest.raises(KeyboardInterrupt):
        make_proposals(source, str(cut), SEARCH)
    assert not cut.exists()
    make_proposals(source, str(cut), SEARCH, workers=0)
    assert seen == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.usefixtures("searched")
def test_broken_images_have_no_boxes_and_are_named(source, tmp_path, caplog, monkeypatch):
    Path(source.name(2)).write_bytes(b"no image")
    os.unlink(source.name(7))
    monkeypatch.setattr(proposing, "LARGEST_SIDE", 60)
    Image.new("RGB", (61, 9)).save(source.name(4))
    proposals = provide_proposals(source, str(tmp_path / "a.boxes"), SEARCH)
    assert [len(proposals.boxes(place)) for place in (2, 4, 7)] == [0, 0, 0]
    assert len(proposals.boxes(3)) == 10
    for place in (2, 4, 7):
        assert sum(source.name(place) in record.getMessage() for record in caplog.records) == 1


@pytest.mark.usefixtures("searched")
def test_a_finished_file_is_not_made_again_and_one_of_other_images_is_refused(
    source, tmp_path, monkeypatch, refuses
):
    path = str(tmp_path / "a.boxes")
    provide_proposals(source, path, SEARCH)
    monkeypatch.setattr(proposing, "make_proposals", lambda *_, **__: pytest.fail("made again"))
    provide_proposals(source, path, SEARCH)
    with refuses("changed-data"):
        provide_proposals(source, path, Search(short_side=4, min_side=10, seed=4))
    shutil.copy(source.name(0), source.name(8))
    with refuses("changed-data", "8.png"):
        provide_proposals(source, path, SEARCH)


@pytest.mark.usefixtures("searched")
def test_a_second_process_waits_for_the_first(source, tmp_path, monkeypatch):
    path, made = str(tmp_path / "deep" / "a.boxes"), []
    make = proposing.make_proposals

    def slow(*args, **kwargs) -> None:
        made.append(1)  # here, not in the other process
        Path(f"{path}.partial").touch()
        time.sleep(0.3)
        make(*args, **kwargs)

    monkeypatch.setattr(proposing, "make_proposals", slow)
    context = multiprocessing.get_context("fork")
    first = context.Process(target=provide_proposals, args=(source, path, SEARCH))
    first.start()
    while not os.path.exists(f"{path}.partial"):
        time.sleep(0.01)
    provide_proposals(source, path, SEARCH)
    first.join()
    assert made == []
    assert len(Proposals(path)) == 9


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("searched")
def test_a_killed_worker_ends_the_making(source, tmp_path, monkeypatch, refuses):
    monkeypatch.setattr(source, "read", end_this_process)
    with refuses("dead-worker"):
        make_proposals(source, str(tmp_path / "a.boxes"), SEARCH, workers=2)


@pytest.mark.parametrize("name", ["short_side", "min_side", "seed"])
def test_bad_options_are_named(name, refuses):
    with refuses("bad-value", name):
        Search(**{name: -1})


@pytest.mark.usefixtures("searched")
def test_shards_have_proposals_by_position(source, tmp_path):
    pack(source, str(tmp_path / "shards"), Packing(per_shard=4, seed=3))
    shards = ShardSource(str(tmp_path / "shards"))
    order = np.random.default_rng(3).permutation(9)
    packed = provide_proposals(shards, str(tmp_path / "s"), SEARCH)
    plain = provide_proposals(source, str(tmp_path / "p"), SEARCH)
    for place, original in enumerate(order):
        assert packed.boxes(place).tolist() == plain.boxes(int(original)).tolist()


@pytest.mark.usefixtures("searched", "in_this_process")
def test_a_run_makes_the_proposals_that_its_method_needs(config, images, monkeypatch, refuses):
    root = images.parent / "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    cfg = config(PRETRAIN__METHOD="mocov2", PRETRAIN__PROPOSALS_SIDE="3")
    pretrain(cfg)
    assert not root.exists()
    extras = METHODS.get("mocov2").loader_extras
    seen = []
    monkeypatch.setattr(METHODS.get("mocov2"), "inputs", METHODS.get("soco").inputs)
    monkeypatch.setattr(
        METHODS.get("mocov2"),
        "loader_extras",
        lambda cfg: seen.append(cfg.PRETRAIN.PROPOSALS) or extras(cfg),
    )
    cfg = config("second", PRETRAIN__METHOD="mocov2", PRETRAIN__PROPOSALS_SIDE="3")
    os.unlink(pretrain(cfg))
    source = FileSource(sorted(map(str, images.iterdir())))
    path = default_path(source, Search(short_side=3))
    assert seen == [path]
    assert path.startswith(str(root))
    inputs = json.loads(Path(cfg.OUTPUT_DIR, "environment.json").read_text())["inputs"]
    assert inputs["PRETRAIN.PROPOSALS"] == Proposals(path).digest
    # Another place is fine, another content is not.
    changes = {"PRETRAIN__METHOD": "mocov2", "PRETRAIN__PROPOSALS_SIDE": "3"}
    moved = {"PRETRAIN__PROPOSALS": shutil.copy(path, f"{root}/moved.boxes")}
    os.unlink(pretrain(config("second", **changes, **moved), resume=True))
    monkeypatch.setattr(proposing, "selective_search", lambda p, **_: np.array([[0, 0, 40, 40]]))
    os.unlink(path)
    with refuses("changed-run", "PRETRAIN.PROPOSALS: the content has changed"):
        pretrain(cfg, resume=True)


@needs_contrib
@pytest.mark.full
@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_tool_killed_at_any_time_ends_with_the_same_file(tmp_path, workers):
    names = [f"{index:02d}.png" for index in range(12)]
    folder = write_images(tmp_path / "images", names, (120, 160), drawn=(8, 10))
    tool = [sys.executable, str(REPOSITORY / "tools/propose.py"), str(folder), "--workers", workers]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}

    def call(target: Path) -> subprocess.Popen:
        words = [*tool, "--out", str(target)]
        return subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)

    assert call(tmp_path / "whole").wait() == 0
    partial = tmp_path / "cut.partial"
    process = call(tmp_path / "cut")
    while process.poll() is None and (not partial.exists() or partial.stat().st_size < 900):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert partial.exists(), "the tool ended before it was killed"
    assert call(tmp_path / "cut").wait() == 0
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not partial.exists()
