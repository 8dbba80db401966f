import csv
import re
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from mls_d2.core.errors import UserError
from mls_d2.report.build import write_report
from mls_d2.report.options import Options


@pytest.fixture
def runs(tmp_path, make_result, save_run):
    for seed in (0, 1):
        save_run(f"coco/random-{seed}", make_result("random", seed, ap=10.0 + seed))
        path = save_run(f"coco/mls-{seed}", make_result("mls", seed, ap=15.0 + seed))
        Image.new("RGB", (8, 4), (10 + seed, 0, 0)).save(path.with_name("predictions.png"))
    pretraining = tmp_path / "runs" / "mls"
    pretraining.mkdir()
    (pretraining / "metrics.json").write_text('{"iteration": 1, "feature_std": 0.5}\n')
    return tmp_path / "runs"


def test_every_picture_that_the_report_shows_is_there_and_opens(runs, tmp_path):
    out = tmp_path / "out" / "report"
    write_report([runs], out)
    shown = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", (out / "report.md").read_text())
    assert shown == ["curves.svg", "predictions-1-1-mls-seed-0.png", "pretraining.svg"]
    with Image.open(out / shown[1]) as picture:
        assert picture.getpixel((0, 0)) == (10, 0, 0)
    for name in ("curves.svg", "pretraining.svg"):
        assert ElementTree.parse(out / name).getroot().tag.endswith("svg")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_row_shows_the_picture_of_its_first_run_that_has_one(runs, tmp_path):
    (runs / "coco" / "mls-0" / "predictions.png").unlink()
    report = write_report([runs], tmp_path / "out")
    (picture,) = report.sections[0].pictures
    assert picture.caption == "mls, seed 1"
    with Image.open(tmp_path / "out" / picture.file) as image:
        assert image.getpixel((0, 0)) == (11, 0, 0)


def test_the_csv_has_one_line_a_run(runs, tmp_path):
    write_report([runs], tmp_path / "out")
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    cells = [(row["group"], row["method"], row["seed"], row["bbox.AP"]) for row in rows]
    assert cells == [
        ("1", "random", "0", "10.0"),
        ("1", "random", "1", "11.0"),
        ("1", "mls", "0", "15.0"),
        ("1", "mls", "1", "16.0"),
    ]
    assert {row["segm.AP"] for row in rows} == {"9.0", "10.0", "14.0", "15.0"}


def test_a_second_report_in_the_results_folder_is_the_same(runs):
    write_report([runs], runs / "report")
    first = {path.name: path.read_bytes() for path in (runs / "report").iterdir()}
    write_report([runs], runs / "report")
    assert {path.name: path.read_bytes() for path in (runs / "report").iterdir()} == first


def test_bad_results_are_skipped_and_named(runs, tmp_path, caplog):
    bad = runs / "coco" / "mls-0" / "results.json"
    bad.write_text(bad.read_text()[:100])
    report = write_report([runs], tmp_path / "out")
    assert len(report.runs) == 3
    (problem,) = report.problems
    assert str(bad) in problem
    assert problem in caplog.text
    assert "1 results were left out" in (tmp_path / "out" / "report.md").read_text()


def test_runs_without_curves_or_metrics_still_make_a_report(tmp_path, make_result, save_run):
    path = save_run("a", make_result(metrics={"bbox": {"AP": float("nan")}}))
    path.with_name("metrics.json").unlink()
    save_run("b", make_result(task="empty", metrics={}))
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    assert [group.task for group in report.groups] == ["coco_mask_rcnn_fpn", "empty"]
    assert report.sections[1].curves.file == "curves-2.svg"
    assert (tmp_path / "out" / "curves-2.svg").exists()


def test_names_that_are_no_file_names_do_not_leave_the_folder(tmp_path, make_result, save_run):
    for number, method in enumerate(("../../evil", "$\\frac{", "_hidden", "日本")):
        path = save_run(str(number), make_result(method))
        Image.new("RGB", (2, 2)).save(path.with_name("predictions.png"))
    out = tmp_path / "deep" / "out"
    report = write_report([tmp_path / "runs"], out)
    files = [picture.file for picture in report.sections[0].pictures]
    assert len(set(files)) == 4
    assert all((out / file).parent == out and (out / file).exists() for file in files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "runs"]


def test_every_format_is_written(runs, tmp_path):
    write_report([runs], tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir() if "predictions" not in path.name}
    tables = {"report.html", "report.md", "results.csv", "results.tex"}
    assert names == tables | {"curves.svg", "pretraining.svg"}


def test_an_unknown_baseline_names_the_nearest_and_writes_nothing(runs, tmp_path):
    with pytest.raises(UserError, match="baseline 'msl' is not among the results; did you mean 'm"):
        write_report([runs], tmp_path / "out", Options(baseline="msl"))
    assert not (tmp_path / "out").exists()
    write_report([runs], tmp_path / "out", Options(baseline="mls"))
    assert "Differences to mls" in (tmp_path / "out" / "report.md").read_text()


def test_a_baseline_that_is_several_rows_lists_their_labels(runs, tmp_path, make_result, save_run):
    save_run("coco/other", make_result("mls", pretraining={"MLS": {"K": 20}}))
    labels = r"'mls \(MLS.K = 20\)', 'mls \(MLS.K = 5\)'"
    with pytest.raises(UserError, match=f"'mls' is 2 rows of coco_mask_rcnn_fpn; .*: {labels}"):
        write_report([runs], tmp_path / "out", Options(baseline="mls"))
    assert not (tmp_path / "out").exists()
    # Nothing is taken differences of in a mixed table.
    save_run("coco/longer", make_result("mls", 7, max_iter=600))
    write_report([runs], tmp_path / "out", Options(baseline="mls", mix=True))


def test_the_default_baseline_may_be_absent(tmp_path, make_result, save_run):
    save_run("a", make_result("mls"))
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    assert report.sections[0].tables["differences"] is None


def test_a_folder_that_cannot_be_written_is_an_error(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*file"):
        write_report([runs], tmp_path / "file" / "out")


def test_disagreeing_results_are_warned_of(runs, tmp_path, make_result, save_run, caplog):
    save_run("coco/again", make_result("mls", 0, ap=99.0, finished="2030"))
    report = write_report([runs], tmp_path / "out")
    (line,) = report.disagreements
    assert "bbox.AP 15.00 and 99.00" in line
    assert line in caplog.text


def test_nothing_to_report_is_an_error_that_writes_nothing(tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no results.json below .*runs.*make demo"):
        write_report([tmp_path / "runs"], tmp_path / "out")
    (tmp_path / "runs" / "a" / "results.json").write_text("{")
    with pytest.raises(UserError, match="none of the 1 results below .* can be used; the first"):
        write_report([tmp_path / "runs"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
