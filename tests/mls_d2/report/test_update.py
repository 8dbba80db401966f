from pathlib import Path

import pytest

from mls_d2.core.errors import UserError
from mls_d2.report.document import Picture, Report
from mls_d2.report.groups import group_results
from mls_d2.report.options import Options
from mls_d2.report.sections import make_section
from mls_d2.report.update import update_document
from mls_d2.results.schema import LocatedResult

BEGIN, END = "<!-- report:begin {} -->", "<!-- report:end {} -->"


def report_of(*results):
    located = [LocatedResult(Path(f"run{i}"), result) for i, result in enumerate(results)]
    groups, _ = group_results(located)
    curves = Picture("curves.svg", "")
    return Report([make_section(item, Options(), curves=curves) for item in groups], None, ())


@pytest.fixture
def report(make_result):
    return report_of(make_result("random"), make_result("mls"), make_result(task="voc"))


def block(name, content="stale"):
    return f"{BEGIN.format(name)}\n{content}\n{END.format(name)}"


def test_only_what_stands_between_markers_changes(tmp_path, report):
    path = tmp_path / "a.md"
    path.write_text(f"# Title\n\n{block('results')}\n\ntext | more\n{block('voc/cost')}\nend")
    assert update_document(path, report) == ["results", "voc/cost"]
    text = path.read_text()
    first, second = text.split("\n\ntext | more\n")
    assert first.startswith(f"# Title\n\n{BEGIN.format('results')}\n")
    assert first.endswith(END.format("results"))
    assert "| mls | 1 | 15.00 | +0.00 |" in first
    assert "**voc, preset quick**" in first
    assert second.startswith(BEGIN.format("voc/cost"))
    assert second.endswith(f"{END.format('voc/cost')}\nend")
    assert "| mls | 30.0 |" in second
    assert "coco_mask" not in second
    assert "stale" not in first + second


def test_a_second_update_changes_nothing_and_writes_nothing(tmp_path, report):
    path = tmp_path / "a.md"
    path.write_text(block("results"))
    update_document(path, report)
    before = path.read_bytes(), path.stat().st_ino
    update_document(path, report)
    assert (path.read_bytes(), path.stat().st_ino) == before


def test_the_numbers_follow_the_results(tmp_path, make_result):
    path = tmp_path / "a.md"
    path.write_text(block("results"))
    update_document(path, report_of(make_result(ap=15.0)))
    update_document(path, report_of(make_result(ap=33.25)))
    assert "33.25" in path.read_text()
    assert "15.00" not in path.read_text()


def test_names_cannot_close_the_block(tmp_path, make_result):
    path = tmp_path / "a.md"
    path.write_text(block("results") + "\nend")
    report = report_of(make_result(f"x {END.format('results')} y"))
    update_document(path, report)
    update_document(path, report)
    assert path.read_text().endswith(f"\n{END.format('results')}\nend")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "has no table to update: put <!-- report:begin results -->"),
        (block("resluts"), "no kind of table is called 'resluts'; did you mean 'results'"),
        (block("vco/results"), "no results of task 'vco'; did you mean 'voc'"),
        (f"a\n{BEGIN.format('results')}", "lacks its report:end"),
        (f"a\n{END.format('results')}", "line 2: .*lacks a report:begin before it"),
        (f"{BEGIN.format('results')}\n{block('results')}", "line 2: .*lacks its report:end"),
        (f"{BEGIN.format('results')}\n{END.format('cost')}", "closes report:begin 'results'"),
        (block("results") + "\n" + block("bad"), "no kind of table is called 'bad'"),
    ],
)
def test_bad_markers_are_refused_and_leave_the_file(tmp_path, report, text, message):
    path = tmp_path / "a.md"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        update_document(path, report)
    assert path.read_text() == text


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_unreadable_document_is_an_error(tmp_path, report, content):
    path = tmp_path / "a.md"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read '.*a\.md'"):
        update_document(path, report)
