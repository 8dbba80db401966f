from pathlib import Path

from mls_d2.report.document import Picture, Report
from mls_d2.report.groups import group_results
from mls_d2.report.options import Options
from mls_d2.report.sections import make_section
from mls_d2.report.summary import MAX_LINES, terminal_summary
from mls_d2.results.schema import LocatedResult


def summary_of(*results, problems=()):
    located = [LocatedResult(Path(f"run{i}"), result) for i, result in enumerate(results)]
    groups, _ = group_results(located)
    sections = [make_section(group, Options(), curves=Picture("c.svg", "")) for group in groups]
    return terminal_summary(Report(sections, None, problems), "out/report.md").splitlines()


def test_the_table_is_aligned_and_shows_the_difference(make_result):
    results = [make_result("random", ap=10.0), make_result("mls", ap=15.0)]
    lines = summary_of(*results, problems=["bad"])
    assert lines[0] == "2 results, 1 left out"
    assert lines[1].startswith("SYNTHETIC SCENES")
    assert lines[2].startswith("SHORTENED SCHEDULE")
    assert lines[-1] == "report: out/report.md"
    header, random, mls = lines[5:8]
    assert random.split() == ["random", "1", "10.00", "-", "9.00", "-", "1", "min", "20", "s"]
    assert mls.split() == ["mls", "1", "15.00", "+5.00", "14.00", "+5.00", "1", "min", "20", "s"]
    assert len(header) == len(random) == len(mls)


def test_any_number_of_results_fits_one_screen_of_ascii(make_result):
    results = [make_result(f"méthode\x1b[2J-{i}" + "x" * 99, max_iter=i % 7) for i in range(60)]
    lines = summary_of(*results)
    assert len(lines) == MAX_LINES
    assert all(line.isascii() and (line.isprintable()) for line in lines)
    assert max(map(len, lines)) <= 100
    # 7 groups take a blank, a title and a header each, 60 rows one each; 24 - 3 - 2 - 1 are shown
    assert lines[-3] == f"... and {7 * 3 + 60 - 18} more lines in the report"


def test_a_spread_is_written_in_ascii(make_result):
    lines = summary_of(make_result(seed=0, ap=15.0), make_result(seed=1, ap=17.0))
    assert "16.00 +- 1.41" in lines[-3]
