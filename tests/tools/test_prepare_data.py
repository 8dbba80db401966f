"""tools/prepare_data.py prints what is ready, what is missing, and where to get it."""

import pytest

from tools.prepare_data import main


def test_scenes_are_ready(scenes_root, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes_root))
    assert main(["voc2007", "--sample", "2"]) == 0
    out = capsys.readouterr().out
    assert "ok  voc2007_test: 8 images, generated scenes; 2 of them read" in out
    assert out.endswith("all ready\n")


def test_what_is_missing_is_named_with_its_page_and_archive(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert main(["voc2007"]) == 2
    out = capsys.readouterr().out
    assert str(tmp_path / "VOC2007" / "ImageSets" / "Main" / "trainval.txt") in out
    assert "host.robots.ox.ac.uk" in out
    assert "VOCtest_06-Nov-2007.tar" in out
    assert out.endswith("1 not ready: voc2007\n")


@pytest.mark.parametrize(
    ("arguments", "code"), [(["cocoo"], "unknown-name"), (["--sample", "-1"], "bad-value")]
)
def test_bad_arguments_are_refused(refuses, arguments, code):
    with refuses(code):
        main(arguments)


def test_without_the_folder_it_prints_one_line_and_returns_2(run_tool, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    done = run_tool("prepare_data")
    assert done.code == 2
    assert done.err.startswith(f"error: no folder '{tmp_path}/none'")
