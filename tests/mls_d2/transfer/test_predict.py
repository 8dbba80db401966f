"""The demo draws every image that can be read, and names the others."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from mls_d2.transfer import detection
from mls_d2.transfer.predict import run_demo
from mls_d2.transfer.run import run_transfer


@pytest.fixture
def trained(make_cfg, monkeypatch):
    """The config of a finished run, with the weights that it trained."""
    monkeypatch.setattr(detection, "write_detections", lambda *_: None)
    cfg = make_cfg("SOLVER.MAX_ITER", 1)
    run_transfer(cfg)
    cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    return cfg


def test_bad_images_are_left_out_and_all_others_drawn(trained, tmp_path):
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    gray = folder / "gray.png"
    Image.fromarray(np.full((40, 50), 7, np.uint8)).save(gray)
    Image.fromarray(np.zeros((30, 20, 4), np.uint8)).save(tmp_path / "in" / "gray.webp")
    (folder / "broken.jpg").write_bytes(b"no image")
    (picture, *_) = sorted(Path(MetadataCatalog.get(trained.DATASETS.TEST[0]).image_root).iterdir())
    inputs = [str(tmp_path / "in"), str(picture), str(tmp_path / "none.jpg")]
    written, problems = run_demo(trained, inputs, str(tmp_path / "out"), min_score=0.0)
    assert [Path(path).name for path in written] == ["gray.png", "gray-2.png", "000.png"]
    assert all(Image.open(path).size[1] == 480 for path in written)
    assert len(problems) == 2
    assert "broken.jpg" in problems[0]
    assert "none.jpg" in problems[1]


def test_bad_arguments_are_refused(make_cfg, tmp_path, refuses):
    (tmp_path / "empty").mkdir()
    out = str(tmp_path / "out")
    with refuses("missing-data", "no images in"):
        run_demo(make_cfg(), [str(tmp_path / "empty")], out, min_score=0.5)
    with refuses("bad-option"):
        run_demo(make_cfg(), ["a.jpg"], out, min_score=50)
    with refuses("missing-file", "none.pth"):
        run_demo(make_cfg("MODEL.WEIGHTS", "none.pth"), ["a.jpg"], out, min_score=0.5)


def test_no_drawing_replaces_an_input_or_becomes_one(make_cfg, tmp_path, refuses):
    images, linked = tmp_path / "in", tmp_path / "linked"
    images.mkdir()
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(images / "a.png")
    before = (images / "a.png").read_bytes()
    linked.mkdir()
    (linked / "a.png").symlink_to(images / "a.png")
    (tmp_path / "other").symlink_to(images)
    for inputs, folder, problem in (
        ([images], images, "lies in the input folder"),
        ([images], images / "drawn", "lies in the input folder"),
        ([images], tmp_path / "other" / "drawn", "lies in the input folder"),
        ([images / "a.png"], images, "holds the input"),
        ([images / "a.png"], tmp_path / "other", "holds the input"),
        ([linked], images, "holds the input"),
        ([linked / "a.png"], linked, "holds the input"),
    ):
        with refuses("bad-option", problem):
            run_demo(make_cfg(), [str(path) for path in inputs], str(folder), min_score=0.5)
    assert (images / "a.png").read_bytes() == before
    assert [path.name for path in images.iterdir()] == ["a.png"]
