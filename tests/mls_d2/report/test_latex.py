import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mls_d2.report.cells import Cell, Column, Table, text_columns
from mls_d2.report.document import Picture, Report
from mls_d2.report.groups import group_results
from mls_d2.report.latex import latex_escape, latex_table, render_latex
from mls_d2.report.options import Options
from mls_d2.report.sections import make_section
from mls_d2.results.schema import LocatedResult

NASTY = r"\input{/etc/passwd} 50% $x$ a_b #1 ~^ {} <b>& |"


def report_of(*results, mix=False):
    located = [LocatedResult(Path(f"run{i}"), result) for i, result in enumerate(results)]
    groups, problems = group_results(located, mix=mix)
    curves = Picture("curves.svg", "")
    sections = [make_section(group, Options(), curves=curves) for group in groups]
    return Report(sections, None, problems)


def test_a_table_by_hand():
    columns = [*text_columns("method"), Column("box AP")]
    rows = [[Cell("a_b"), Cell("1.00 ± 0.10", best=True)], [Cell("c"), Cell("–")]]
    assert latex_table(Table(columns, rows), caption="5 % off", label="tab:x") == "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            r"\caption{5 \% off}",
            r"\label{tab:x}",
            r"\begin{tabular}{lr}",
            r"\toprule",
            r"method & box AP \\",
            r"\midrule",
            r"a\_b & \textbf{1.00 $\pm$ 0.10} \\",
            r"c & -- \\",
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def test_escaped_text_holds_no_command_of_its_own():
    text = latex_escape(NASTY + "\n\nx")
    assert "\n" not in text
    assert set(re.findall(r"\\[a-zA-Z]+", text)) <= {
        r"\textbackslash",
        r"\textasciitilde",
        r"\textasciicircum",
        r"\textless",
        r"\textgreater",
        r"\textbar",
    }
    bare = re.sub(r"\\text[a-z]+\{\}|\\[{}&%$#_]", "", text)
    assert not re.search(r"[\\{}&%$#_~^<>|]", bare)


def test_marks_are_said_and_lines_have_as_many_cells_as_columns(make_result):
    results = [make_result(NASTY, seed, task=f"t {NASTY}") for seed in range(3)]
    results += [make_result("random", seed, ap=1.0, task=f"t {NASTY}") for seed in range(3)]
    text = render_latex(report_of(*results))
    assert "% SYNTHETIC SCENES" in text
    assert text.count("Not comparable with published numbers: shortened schedule, synthetic") == 3
    for spec, body in re.findall(
        r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL
    ):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) >= 2
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(spec)}
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(labels) == len(set(labels)) == 3


def test_a_mixed_table_is_marked(make_result):
    report = report_of(make_result("random"), make_result("mls", max_iter=600), mix=True)
    assert r"MIXED, rows differ in SOLVER.MAX\_ITER" in render_latex(report)


@pytest.mark.slow
def test_latex_takes_it(tmp_path, make_result):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not on PATH")
    (tmp_path / "t.tex").write_text(render_latex(report_of(make_result("random"), make_result())))
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{t}\\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
