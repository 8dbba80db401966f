"""From folders of runs to the files of a report, to documents and to the terminal."""

import csv
import re
import xml.etree.ElementTree as ElementTree

import msgspec
import pytest
from PIL import Image

from mls_d2.report.build import compare, update_document, write_report
from mls_d2.report.tables import ReportOptions
from tests.mls_d2.report.test_render import report_of

COCO_800 = {"dataset": ["coco_2017_train"], "epochs": 800}
BEGIN, END = "<!-- report:begin {} -->", "<!-- report:end {} -->"


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


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_format_and_picture_is_written_and_a_second_report_is_the_same(runs):
    out = runs / "report"
    write_report([runs], out)
    first = contents(out)
    picture = "predictions-1-1-mls-seed-0.png"
    tables = {"report.html", "report.md", "results.csv", "results.tex"}
    assert set(first) == tables | {"curves.svg", "pretraining.svg", picture}
    shown = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", (out / "report.md").read_text())
    assert shown == ["curves.svg", picture, "pretraining.svg"]
    with Image.open(out / picture) as image:
        assert image.getpixel((0, 0)) == (10, 0, 0)
    for name in ("curves.svg", "pretraining.svg"):
        assert ElementTree.parse(out / name).getroot().tag.endswith("svg")
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    keys = ("group", "method", "seed", "synthetic", "bbox.AP", "segm.AP")
    assert [[row[key] for key in keys] for row in rows] == [
        ["1", "random", "0", "true", "10.0", "9.0"],
        ["1", "random", "1", "true", "11.0", "10.0"],
        ["1", "mls", "0", "true", "15.0", "14.0"],
        ["1", "mls", "1", "true", "16.0", "15.0"],
    ]
    write_report([runs], out)
    assert contents(out) == first


def test_bad_and_disagreeing_results_are_named_and_the_next_picture_is_shown(
    runs, tmp_path, make_result, save_run, caplog
):
    bad = runs / "coco" / "mls-0" / "results.json"
    bad.write_text(bad.read_text()[:100])
    save_run("coco/again", make_result("random", 0, ap=99.0, finished="2030"))
    report = write_report([runs], tmp_path / "out")
    assert len(report.runs) == 3
    assert [str(bad) in problem for problem in report.problems] == [True, False]
    (line,) = report.disagreements
    assert "bbox.AP 10.00 and 99.00" in line
    assert all(text in caplog.text for text in [*report.problems, line])
    assert "2 results were left out" in (tmp_path / "out" / "report.md").read_text()
    (picture,) = report.sections[0].pictures
    assert picture.caption == "mls, seed 1"
    with Image.open(tmp_path / "out" / picture.file) as image:
        assert image.getpixel((0, 0)) == (11, 0, 0)


def test_runs_without_curves_or_metrics_still_make_a_report(tmp_path, make_result, save_run):
    path = save_run("a", make_result(metrics={"bbox": {"AP": float("nan")}}))
    path.with_name("metrics.json").unlink()
    save_run("b", make_result(task="empty", metrics={}))
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    assert [group.task for group in report.groups] == ["coco_mask_rcnn_fpn", "empty"]
    assert report.sections[0].tables["differences"] is None
    assert report.sections[1].curves[0].file == "curves-2.svg"
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


def test_a_baseline_must_be_one_row(runs, tmp_path, make_result, save_run, refuses):
    with refuses("unknown-name", "'msl' is not among the results; did you mean 'mls'"):
        write_report([runs], tmp_path / "out", ReportOptions(baseline="msl"))
    save_run("coco/other", make_result("mls", pretraining={"MLS": {"K": 20}}))
    with refuses("ambiguous-name", "'mls (MLS.K = 20)', 'mls (MLS.K = 5)'"):
        write_report([runs], tmp_path / "out", ReportOptions(baseline="mls"))
    assert not (tmp_path / "out").exists()
    # No differences are taken in a mixed table.
    save_run("coco/longer", make_result("mls", 7, max_iter=600))
    write_report([runs], tmp_path / "out", ReportOptions(baseline="mls", mix=True))


@pytest.mark.parametrize("written", [True, False])
def test_nothing_to_report_is_an_error_that_writes_nothing(tmp_path, refuses, written):
    folder = tmp_path / "runs"

    def make():
        return write_report([folder], folder / "out") if written else compare([folder])

    (folder / "a").mkdir(parents=True)
    with refuses("missing-file", "make demo"):
        make()
    (folder / "a" / "results.json").write_text("{")
    with refuses("damaged-file"):
        make()
    assert [path.name for path in folder.iterdir()] == ["a"]


@pytest.fixture
def voc_runs(make_paper_result, save_run, tmp_path):
    """Return a function that compares paper runs with the given APs, one per seed."""

    def save(*values, method="mls", info=COCO_800, **fields):
        base = make_paper_result(method, info=info)
        data = msgspec.structs.replace(base.dataset, name="voc_2007_test", num_images=16551)
        for seed, value in enumerate(values):
            metrics = {"bbox": {"AP": value, "AP50": value + 20, "AP-dog": 1.0}}
            run = {"dataset": data, "metrics": metrics, "task": "voc_faster_rcnn_c4"}
            config = "SOLVER: {MAX_ITER: 24000, IMS_PER_BATCH: 16}"
            result = make_paper_result(method, seed, info, **{"config": config, **run, **fields})
            save_run(f"voc/{method}-seed{seed}", result)
        return compare([tmp_path / "runs"])

    return save


def lines_of(text):
    return [line.split() for line in text.splitlines()]


def test_mean_and_deviation_over_seeds_beside_the_paper(voc_runs):
    text = voc_runs(54.0, 55.0, 57.5)  # mean 55.5, deviations -1.5, -0.5, 2: variance 6.5 / 2
    assert "voc_faster_rcnn_c4, preset paper, real images, mls, seeds 0, 1, 2" in text
    assert ["box", "AP", "55.50", "+-", "1.80", "55.0", "+0.50"] in lines_of(text)
    assert ["box", "AP50", "75.50", "+-", "1.80", "81.6", "-6.10"] in lines_of(text)
    assert "published: MLS (COCO, 800 epochs), Table 4 of " in text
    assert "dog" not in text
    assert ["box", "AP", "30.00", "32.8", "-2.80"] in lines_of(voc_runs(30.0, method="random"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"preset": "quick"}, "shortened schedule"),
        ({"info": COCO_800 | {"epochs": 400}}, "other pretraining (COCO, 800 epochs)"),
        ({"task": "voc_retinanet"}, "there are none for task voc_retinanet"),
    ],
)
def test_without_a_published_number_the_reason_is_printed(voc_runs, fields, reason):
    text = voc_runs(55.0, **fields)
    assert "no published number: " in text
    assert reason in text
    assert ["box", "AP", "55.00"] in lines_of(text)
    assert "81.6" not in text


@pytest.fixture
def report(make_result):
    return report_of(make_result("random"), make_result("mls"), make_result(task="voc"))


def block(name, content="stale"):
    return f"{BEGIN.format(name)}\n{content}\n{END.format(name)}"


def test_only_the_text_between_markers_changes(tmp_path, report, make_result):
    path = tmp_path / "a.md"
    path.write_text(f"# Title\n\n{block('results')}\n\ntext | more\n{block('voc/cost')}\nend")
    assert update_document(path, report) == ["results", "voc/cost"]
    text = path.read_text()
    first, second = text.split("\n\ntext | more\n")
    assert first.startswith(f"# Title\n\n{BEGIN.format('results')}\n")
    assert first.endswith(END.format("results"))
    assert "| mls | 1 | 15.00 | +0.00 |" in first
    assert "**voc, preset quick, synthetic scenes**" in first
    assert "Not comparable with published numbers: shortened schedule, synthetic scenes." in first
    assert second.startswith(BEGIN.format("voc/cost"))
    assert second.endswith(f"{END.format('voc/cost')}\nend")
    assert "| mls | 30.0 |" in second
    assert "coco_mask" not in second
    assert "stale" not in first + second
    before = path.stat().st_ino
    update_document(path, report)
    assert (path.read_text(), path.stat().st_ino) == (text, before)
    update_document(path, report_of(make_result(ap=33.25), make_result(task="voc")))
    assert "33.25" in path.read_text()
    assert "+0.00" not in path.read_text()


def test_names_cannot_close_the_block(tmp_path, make_result):
    path = tmp_path / "a.md"
    path.write_text(block("results") + "\nend")
    report = report_of(make_result(f"x {END.format('results')} y"))
    update_document(path, report)
    update_document(path, report)
    assert path.read_text().endswith(f"\n{END.format('results')}\nend")


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("nothing", "missing-data", "put <!-- report:begin results -->"),
        (block("resluts"), "unknown-name", "'resluts'; did you mean 'results'"),
        (block("vco/results"), "unknown-name", "task 'vco'; did you mean 'voc'"),
        (f"a\n{BEGIN.format('results')}", "bad-value", "line 2"),
        (f"a\n{END.format('results')}", "bad-value", "line 2"),
        (f"{BEGIN.format('results')}\n{block('results')}", "bad-value", "line 2"),
        (f"{BEGIN.format('results')}\n{END.format('cost')}", "bad-value", "line 1"),
        (block("results") + "\n" + block("bad"), "unknown-name", "'bad'"),
        (b"\xff\xfe", "missing-file", "cannot read"),
    ],
)
def test_bad_markers_are_refused_and_leave_the_file(tmp_path, refuses, report, text, code, place):
    path = tmp_path / "a.md"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = path.read_bytes()
    with refuses(code, place):
        update_document(path, report)
    assert path.read_bytes() == before
