import html
import re
from pathlib import Path

import pytest

from mls_d2.report.cells import Cell, Column, Link, Table, text_columns
from mls_d2.report.document import Picture, Report
from mls_d2.report.groups import group_results
from mls_d2.report.markdown import escape, markdown_table, render, render_part
from mls_d2.report.options import Options
from mls_d2.report.sections import make_section
from mls_d2.results.schema import LocatedResult

NASTY = "<img src=x onerror=alert(1)>|`rm`*b*_i_[a](http://b)\n\n# title ~~s~~ $x$ \\ &amp;"


def report_of(*results, problems=(), pretraining=None, pictures=(), mix=False):
    located = [LocatedResult(Path(f"run{i}"), result) for i, result in enumerate(results)]
    groups, left_out = group_results(located, mix=mix)
    options = Options(mix=mix)
    curves = Picture("curves.svg", "curves")
    sections = [make_section(group, options, curves=curves, pictures=pictures) for group in groups]
    return Report(sections, pretraining, [*problems, *left_out], options)


def unescape(text):
    """What a Markdown reader shows."""
    return html.unescape(re.sub(r"\\([\\`*\[\]~$_])", r"\1", text))


def test_escaped_text_shows_as_it_was_on_one_line():
    assert unescape(escape(NASTY)) == " ".join(NASTY.split())


@pytest.mark.parametrize("text", ["coco_2017_train", "a-b.c/d", "mls (MLS.K = 5)", "3 ± 1"])
def test_plain_names_stay_as_they_are(text):
    assert escape(text) == text


def test_nothing_in_escaped_text_is_markup():
    text = escape(NASTY)
    assert not re.search(r"[<>|\n]", text)
    assert not re.search(r"(?<!\\)[`*\[\]~$]", text.replace("\\\\", ""))
    assert not re.search(r"(?<![\w\\])_|(?<!\\)_(?!\w)", text)
    assert escape("a\x1b[31m\u202eb") == "a \\[31m b"


def test_a_table_keeps_its_shape_whatever_its_cells_hold():
    columns = [*text_columns("method"), Column("n")]
    table = Table(columns, [[Cell("a|b"), Cell("1", best=True)], [Cell("c\nd"), Cell("2")]])
    assert markdown_table(table).splitlines() == [
        "| method | n |",
        "| --- | ---: |",
        "| a&#124;b | **1** |",
        "| c d | 2 |",
    ]


def test_links_stand_in_place_of_the_text():
    cell = Cell("/a/results.json", links=[Link("results.json", "../a%20b/results.json")])
    (line,) = markdown_table(Table(text_columns("result"), [[cell]])).splitlines()[2:]
    assert line == "| [results.json](../a%20b/results.json) |"


def test_names_with_markup_are_escaped_everywhere(make_result):
    base = make_result()
    result = make_result(
        method=NASTY,
        task=NASTY,
        preset=NASTY,
        dataset={**base.dataset, "name": NASTY, "fingerprint": NASTY},
        backbone={**base.backbone, "file": NASTY, "info": {"dataset": NASTY}},
        versions={"torch": NASTY},
        metrics={NASTY.replace(".", ""): {NASTY: 1.0}},
    )
    pictures = [Picture("predictions.png", NASTY)]
    text = render(report_of(result, problems=[NASTY], pictures=pictures))
    assert "<" not in text
    assert "\n# title" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} <= {5, 6, 9}


def test_banners_and_reasons_say_that_numbers_are_not_the_papers(make_result):
    text = render(report_of(make_result()))
    assert "> **SYNTHETIC SCENES" in text
    assert "> **SHORTENED SCHEDULE" in text
    assert "Not comparable with published numbers: shortened schedule, synthetic scenes." in text
    assert "No run of the baseline, random, is among these" in text


def test_a_paper_result_on_real_data_has_no_banner_and_names_the_table(make_paper_result):
    text = render(report_of(make_paper_result("random"), make_paper_result("mls")))
    assert "> **" not in text
    assert "Not comparable" not in text
    assert "Published numbers: Table 1 of Multi-Label Self-Supervised Learning" in text


def test_a_synthetic_backbone_is_announced_even_on_real_data(make_result):
    real = {**make_result().dataset, "synthetic": False}
    text = render(report_of(make_result(preset="custom", dataset=real)))
    assert "SYNTHETIC SCENES: backbones pretrained" in text


def test_what_was_left_out_and_what_sets_tables_apart_is_listed(make_result):
    pretraining = Picture("pretraining.svg", "curves of pretraining")
    report = report_of(
        make_result(),
        make_result(max_iter=600),
        problems=["a/results.json: cut"],
        pretraining=pretraining,
    )
    text = render(report)
    assert "What sets these runs apart: SOLVER.MAX_ITER = 300." in text
    assert "What sets these runs apart: SOLVER.MAX_ITER = 600." in text
    assert "## Left out\n\n- a/results.json: cut\n" in text
    assert "![curves of pretraining](pretraining.svg)" in text


def test_disagreeing_and_mixed_results_are_announced(make_result):
    again = make_result(ap=20.0, finished="2026-01-01T00:00:00Z")
    text = render(report_of(make_result(), again, make_result("mocov2", max_iter=600), mix=True))
    assert "> **MIXED TABLES: some rows differ in more than the method.**" in text
    assert "> **DISAGREEING RESULTS: 1 repeated runs gave other numbers.**" in text
    assert "**MIXED: these rows are not comparable.** They differ in SOLVER.MAX_ITER;" in text
    assert "disagree: bbox.AP 15.00 and 20.00, bbox.AP50 30.00 and 40.00, segm.AP" in text
    assert "mocov2 (SOLVER.MAX_ITER = 600)" in text


def test_a_part_has_its_tables_and_what_marks_them(make_result, make_paper_result):
    report = report_of(make_result("random"), make_result("mls"), make_paper_result("mls"))
    text = render_part(report.sections, "differences")
    assert text.count("| method | metric |") == 1
    assert "**coco_mask_rcnn_fpn, preset quick**" in text
    assert "Not comparable with published numbers: shortened schedule, synthetic scenes." in text
    assert "preset paper**" not in text
    assert "Two-sided t-tests" in text
    assert "Published numbers: Table 1 of Multi-Label" in render_part(report.sections, "results")
