"""Every format: nothing in a name is markup, and what marks numbers is printed with them."""

import csv
import html
import io
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from mls_d2.report import render
from mls_d2.report.contents import Report, ReportPicture, make_section
from mls_d2.report.groups import group_results
from mls_d2.report.tables import Column, ReportOptions, Table, TableCell
from mls_d2.results.schema import LocatedResult

NASTY = (
    "<script>window.stolen = 1</script><b>bold</b>\"'&|`rm`*b*_i_[a](http://b)\n\n# title ~~s~~ "
    "$x$ \\input{/etc/passwd} 50% #1 ^ {} &amp;"
)
TABLE = Table(
    [Column("a_b", numeric=False), Column("n"), Column("file", numeric=False)],
    [
        [TableCell("a|b"), TableCell("1.00 ± 0.10", best=True), TableCell("–")],
        [
            TableCell("c\nd"),
            TableCell("+2.00", significant=True),
            TableCell("/x", links={"x": "../x%20y"}),
        ],
    ],
)


def report_of(*results, problems=(), pretraining=(), pictures=(), mix=False):
    located = [LocatedResult(Path(f"run{i}"), result) for i, result in enumerate(results)]
    groups, left_out = group_results(located, mix=mix)
    options = ReportOptions(mix=mix)
    curves = [ReportPicture("curves.svg", "curves")]
    sections = [make_section(group, options, curves, pictures) for group in groups]
    return Report(sections, pretraining, [*problems, *left_out], options)


@pytest.fixture
def nasty_report(make_result):
    """Results of which every text is NASTY."""
    base = make_result()
    changes = {
        "method": NASTY,
        "task": NASTY,
        "preset": NASTY,
        "dataset": msgspec.structs.replace(base.dataset, name=NASTY, fingerprint=NASTY),
        "versions": {"torch": NASTY},
        "metrics": {NASTY.replace(".", ""): {NASTY: 1.0}},
    }
    weights = msgspec.structs.replace(base.backbone, file=NASTY, info={"dataset": NASTY})
    results = [msgspec.structs.replace(base, **changes, backbone=weights)]
    changes |= {"method": "random", "seed": 1}
    results.append(msgspec.structs.replace(make_result("random"), **changes))
    return report_of(*results, problems=[NASTY], pictures=[ReportPicture("p.png", NASTY)])


def test_a_table_by_hand_in_markdown():
    assert render.markdown_table(TABLE).splitlines() == [
        "| a_b | n | file |",
        "| --- | ---: | --- |",
        "| a&#124;b | **1.00 ± 0.10** | – |",
        "| c d | +2.00 \\* | [x](../x%20y) |",
    ]


def test_a_table_by_hand_in_latex():
    expected = r"""\begin{table}[htbp]
\centering
\caption{5 \% off}
\label{tab:x}
\begin{tabular}{lrl}
\toprule
a\_b & n & file \\
\midrule
a\textbar{}b & \textbf{1.00 $\pm$ 0.10} & -- \\
c d & +2.00 * & /x \\
\bottomrule
\end{tabular}
\end{table}"""
    assert render.latex_table(TABLE, caption="5 % off", label="tab:x") == expected


def test_nothing_in_escaped_markdown_is_markup(nasty_report):
    text = render.markdown_escape(NASTY)
    shown = html.unescape(re.sub(r"\\([\\`*\[\]~$_])", r"\1", text))
    assert shown == " ".join(NASTY.split())
    assert not re.search(r"[<>|\n]", text)
    assert not re.search(r"(?<!\\)[`*\[\]~$]", text.replace("\\\\", ""))
    assert not re.search(r"(?<![\w\\])_|(?<!\\)_(?!\w)", text)
    assert render.markdown_escape("a\x1b[31m\u202eb") == "a \\[31m b"
    for plain in ("coco_2017_train", "a-b.c/d", "mls (MLS.K = 5)", "3 ± 1"):
        assert render.markdown_escape(plain) == plain
    page = render.render_markdown(nasty_report)
    assert "<" not in page
    assert "\n# title" not in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    for line, rule in zip(lines, lines[1:], strict=False):
        if set(rule) <= set("|-: "):
            width = line.count("|")
        assert line.count("|") == width


def test_nothing_in_escaped_latex_is_a_command(nasty_report):
    text = render.latex_escape(NASTY)
    assert "\n" not in text
    bare = re.sub(r"\\text(backslash|ascii\w+|less|greater|bar)\{\}|\\[{}&%$#_]", "", text)
    assert not re.search(r"[\\{}&%$#_~^<>|]", bare)
    page = render.render_latex(nasty_report)
    found = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", page, re.DOTALL)
    for spec, body in found:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) >= 2
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(spec)}
    labels = re.findall(r"\\label\{(.*?)\}", page)
    assert len(labels) == len(set(labels)) == len(found) == 3


@pytest.mark.full
def test_latex_takes_it(tmp_path, nasty_report):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not on PATH")
    (tmp_path / "t.tex").write_text(render.render_latex(nasty_report))
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{t}\\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)


def test_the_terminal_shows_any_number_of_results_on_one_screen_of_ascii(make_result):
    results = [make_result(f"méthode\x1b[2J-{i}" + "x" * 99, max_iter=i % 7) for i in range(60)]
    lines = render.render_terminal(report_of(*results), "out/report.md").splitlines()
    assert len(lines) == render.MAX_LINES
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert lines[-1] == "report: out/report.md"
    # 7 groups take a blank, a title and a header each, 60 rows one each; 24 - 3 - 2 - 1 are shown
    assert lines[-3] == f"... and {7 * 3 + 60 - 18} more lines in the report"


def test_the_terminal_shows_headline_metrics_differences_and_time(make_result):
    results = [make_result("random", ap=10.0), make_result("mls", ap=15.0)]
    results.append(make_result("byol", 0, ap=15.0))
    results.append(make_result("byol", 1, ap=17.0))
    lines = render.render_terminal(report_of(*results, problems=["bad"]), "x").splitlines()
    assert lines[0] == "4 results, 1 left out"
    assert [line.partition(":")[0] for line in lines[1:3]] == [
        "SYNTHETIC SCENES",
        "SHORTENED SCHEDULE",
    ]
    cells = [re.split(r"  +", line) for line in lines[5:9]]
    assert cells == [
        ["method", "n", "box AP", "box AP - random", "mask AP", "mask AP - random", "wall time"],
        ["random", "1", "10.00", "-", "9.00", "-", "1 min 20 s"],
        ["byol", "2", "16.00 +- 1.41", "+6.00", "15.00 +- 1.41", "+6.00", "1 min 20 s"],
        ["mls", "1", "15.00", "+5.00", "14.00", "+5.00", "1 min 20 s"],
    ]
    assert len(set(map(len, lines[5:9]))) == 1


def test_all_formats_print_the_marks(make_result):
    names = [(name, seed) for name in ("random", "mls") for seed in (0, 1)]
    runs = [make_result(name, seed, ap=10.0 + seed) for name, seed in names]
    runs += [make_result(max_iter=600), make_result(max_iter=600, ap=9.0, finished="2026")]
    report = report_of(*runs, problems=["a/results.json: cut"])
    text = render.render_markdown(report)
    sections = [
        line for section in report.sections for line in (*section.marks, *section.footnotes)
    ]
    marks = [*report.banners, *sections, *(section.group.title for section in report.sections)]
    for mark in marks:
        assert mark in text
        assert mark in render.render_latex(report).replace("\\", "")
    heads = [mark.partition(":")[0] for mark in marks]
    expected = ["SYNTHETIC SCENES", "SHORTENED SCHEDULE", "DISAGREEING RESULTS"]
    assert heads[:3] == expected
    assert heads.count("Not comparable with published numbers") == 2
    assert heads.count("Pretrained with one seed") == 1
    assert report.disagreements[0] in text
    assert "- a/results.json: cut\n" in text
    assert "No run of the baseline, random, is among these" in text
    weights = [msgspec.structs.replace(runs[2].backbone, sha256=name * 64) for name in "ab"]
    several = [make_result(seed=seed, backbone=weights[seed]) for seed in (0, 1)]
    assert "Pretrained with one seed" not in render.render_markdown(report_of(*several))


def test_mixed_tables_are_marked_in_every_format(make_result, make_paper_result):
    report = report_of(make_paper_result("random"), make_result("mls"), mix=True)
    marked = "MIXED: these rows are not comparable. They differ in SOLVER.IMS"
    assert f"**{marked}" in render.render_markdown(report)
    assert marked in render.render_latex(report).replace("\\", "")
    text = render.render_markdown(report)
    assert "> **MIXED TABLES: some rows differ in more than the method.**" in text
    assert "| mls, synthetic (dataset = " in text
    assert "preset paper + quick, real images and synthetic scenes" in text
    # A backbone of scenes is one on photographs, too.
    scenes = make_paper_result("mls", backbone=make_result("mls").backbone)
    report = report_of(make_paper_result("random"), scenes)
    rows = list(csv.DictReader(io.StringIO(render.render_csv(report))))
    assert [(row["row"], row["synthetic"]) for row in rows] == [
        ("random", "false"),
        ("mls, synthetic", "true"),
    ]


def test_a_paper_result_on_real_data_has_no_banner_and_names_the_sources(make_paper_result):
    head = "MODEL: {ROI_BOX_HEAD: {NUM_CONV: 4, NUM_FC: 1}}\n"
    config = head + make_paper_result().config
    imagenet = {"dataset": "imagenet"}
    results = [make_paper_result(name, config=config) for name in ("random", "mls")]
    results.append(make_paper_result("supervised", config=config, info=imagenet))
    text = render.render_markdown(report_of(*results))
    assert "> **" not in text
    assert "Not comparable" not in text
    assert "Published numbers: Table 1 of Multi-Label Self-Supervised Learning" in text
    assert "Table of results of PixPro's README" in text
    assert "Table 1 of the paper has 38.9 box AP and 35.4 mask AP with two fully" in text
    result = make_paper_result(info={"dataset": ["x"], "synthetic": True}, preset="custom")
    assert "SYNTHETIC SCENES: backbones pretrained" in render.render_markdown(report_of(result))
