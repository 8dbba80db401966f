"""Every format: nothing in a name is markup, and what marks numbers is printed with them."""

import html
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from mls_d2.report import render
from mls_d2.report.build import write_report
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


def report_of(*results, problems=(), pretraining=None, pictures=(), mix=False):
    located = [LocatedResult(Path(f"run{i}"), result) for i, result in enumerate(results)]
    groups, left_out = group_results(located, mix=mix)
    options = ReportOptions(mix=mix)
    curves = ReportPicture("curves.svg", "curves")
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
    assert render.latex_table(TABLE, caption="5 % off", label="tab:x") == "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            r"\caption{5 \% off}",
            r"\label{tab:x}",
            r"\begin{tabular}{lrl}",
            r"\toprule",
            r"a\_b & n & file \\",
            r"\midrule",
            r"a\textbar{}b & \textbf{1.00 $\pm$ 0.10} & -- \\",
            r"c d & +2.00 * & /x \\",
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


@pytest.mark.parametrize("text", ["coco_2017_train", "a-b.c/d", "mls (MLS.K = 5)", "3 ± 1"])
def test_plain_names_stay_as_they_are_in_markdown(text):
    assert render.markdown_escape(text) == text


def test_nothing_in_escaped_markdown_is_markup(nasty_report):
    text = render.markdown_escape(NASTY)
    shown = html.unescape(re.sub(r"\\([\\`*\[\]~$_])", r"\1", text))
    assert shown == " ".join(NASTY.split())
    assert not re.search(r"[<>|\n]", text)
    assert not re.search(r"(?<!\\)[`*\[\]~$]", text.replace("\\\\", ""))
    assert not re.search(r"(?<![\w\\])_|(?<!\\)_(?!\w)", text)
    assert render.markdown_escape("a\x1b[31m\u202eb") == "a \\[31m b"
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


def test_several_pretraining_seeds_need_no_footnote(make_result):
    weights = make_result().backbone
    runs = [
        make_result(seed=seed, backbone=msgspec.structs.replace(weights, sha256=str(seed) * 64))
        for seed in (0, 1)
    ]
    assert "Pretrained with one seed" not in render.render_markdown(report_of(*runs))


def test_mixed_tables_are_marked_in_every_format(make_result, make_paper_result):
    report = report_of(make_paper_result("random"), make_result("mls"), mix=True)
    marked = "MIXED: these rows are not comparable. They differ in SOLVER.IMS"
    assert f"**{marked}" in render.render_markdown(report)
    assert marked in render.render_latex(report).replace("\\", "")
    text = render.render_markdown(report)
    assert "> **MIXED TABLES: some rows differ in more than the method.**" in text
    assert "| mls, synthetic (dataset = " in text
    assert "preset paper + quick, real images and synthetic scenes" in text


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


class Elements(html.parser.HTMLParser):
    """All start tags with their attributes, and whether they were closed in order."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.found = []
        self._open = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture
def runs(tmp_path, make_result, save_run):
    """Two tables: four methods with three seeds each, and one that lacks a number."""
    aps = {"random": [10.0, 10.1, 9.9], "mls": [15.0, 15.2, 14.9], "mocov2": [9.0, 9.3, 9.1]}
    for method, values in aps.items():
        for seed, ap in enumerate(values):
            path = save_run(f"{method}-{seed}", make_result(method, seed, ap=ap))
            Image.new("RGB", (64, 32), (seed, 0, 0)).save(path.with_name("predictions.png"))
    metrics = {"bbox": {"AP": float("nan"), "AP50": 3.0}, "segm": {"AP": 2.0}}
    save_run("evil", make_result(NASTY, metrics=metrics))
    save_run("other", make_result(NASTY, task=f"task {NASTY}"))
    return tmp_path / "runs"


def test_the_page_is_well_formed_safe_and_needs_nothing_else(runs, tmp_path):
    write_report([runs], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    elements = Elements(text)
    for tag, attrs in elements.found:
        for name in ("src", "href"):
            value = attrs.get(name) or "#"
            expected = r"#|\.\./" if tag == "a" else r"#|data:"
            assert re.match(expected, value), (tag, value)
    assert "url(" not in text
    assert "@import" not in text
    assert [item["content"] for item in elements.all("meta") if "http-equiv" in item] == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    ]
    assert len(elements.all("script")) == 1
    assert not elements.all("b")
    assert "&lt;b&gt;bold&lt;/b&gt;&#34;&#39;&amp;" in text
    links = {item["href"] for item in elements.all("a")} - {"#group-1", "#group-2"}
    assert {"../runs/mls-2/results.json", "../runs/mls-2/predictions.png"} <= links
    assert all((tmp_path / "out" / link).exists() for link in links)
    # Of box AP50 and mask AP the last row has one run, which no test can tell apart.
    assert re.findall(r"<strong>(.*?)</strong>", text) == ["15.03 ± 0.15"]
    images = elements.all("img")
    assert [image["alt"] for image in images if image["src"].startswith("data:image/png")] == [
        "random, seed 0",
        "mls, seed 0",
        "mocov2, seed 0",
    ]
    assert sum(image["src"].startswith("data:image/svg+xml") for image in images) == 2
    assert all(image["alt"] for image in images)


def test_pictures_beyond_the_budget_are_linked_and_a_mixed_table_is_marked(
    tmp_path, make_result, save_run, monkeypatch
):
    monkeypatch.setattr(render, "MAX_EMBEDDED", 10)
    save_run("a", make_result("random"))
    save_run("b", make_result("mls", max_iter=600))
    write_report([tmp_path / "runs"], tmp_path / "out", ReportOptions(mix=True))
    text = (tmp_path / "out" / "report.html").read_text()
    elements = Elements(text)
    assert elements.all("img") == []
    linked = [item["href"] for item in elements.all("a") if item["href"].endswith((".svg", "png"))]
    assert "curves.svg" in linked
    assert all((tmp_path / "out" / link).is_file() for link in linked)
    assert '<p class="banner" role="note">MIXED: these rows are not comparable.' in text


# Facts of a page, sent to the page that frames it. It runs after the page's own script.
PROBE = """
<script>
window.addEventListener("load", () => {
  const table = document.querySelector("table");
  const heads = Array.from(table.tHead.rows[0].cells);
  const column = heads.findIndex((head) => head.textContent === "box AP");
  const cells = (place) => Array.from(table.tBodies[0].rows, (row) => row.cells[place].textContent);
  const sorts = () => heads.map((head) => head.getAttribute("aria-sort")).join(" ");
  const click = (place) => {
    const button = heads[place].querySelector("button");
    button.focus();
    button.click();
    const focused = document.activeElement === button && button.tagName === "BUTTON";
    return { focused, cells: cells(place), sorts: sorts(), column: place };
  };
  const box = (node) => node.getBoundingClientRect();
  const facts = {
    before: sorts(),
    clicks: [click(column), click(column), click(0), click(0)],
    width: document.documentElement.scrollWidth,
    outside: Array.from(document.querySelectorAll("main p, main h2, main figure, main .scroll"))
      .filter((node) => box(node).right > innerWidth + 1).length,
    small: Array.from(document.querySelectorAll("td, p, li, figcaption"))
      .filter((node) => parseFloat(getComputedStyle(node).fontSize) < 14).length,
    pictures: Array.from(document.images, (image) => image.naturalWidth),
    requests: performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("data:")),
    stolen: "stolen" in window,
  };
  parent.postMessage(JSON.stringify(facts), "*");
});
</script>
</body>
"""
FRAME = """<!DOCTYPE html><body><pre></pre><script>
addEventListener("message", (event) => { document.querySelector("pre").textContent = event.data; });
</script><iframe src="page.html" width="375" height="800" style="border: 0"></iframe></body>
"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def luminance(colour):
    shares = [int(part, 16) / 255 for part in re.findall(r"\w\w", colour)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_light_and_dark_pages_can_be_read():
    """Contrast as WCAG 2 asks for, from the colours of the style sheet."""
    style = (Path(render.__file__).parent / "templates" / "report.css").read_text()
    modes = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in style.split("@media")[:2]]
    assert luminance(modes[0]["page"]) > 0.8
    assert luminance(modes[1]["page"]) < 0.05
    for colours in modes:
        assert contrast(colours["text"], colours["page"]) >= 7
        assert min(contrast(colours[name], colours["page"]) for name in ("link", "quiet")) >= 4.5


@pytest.mark.full
def test_in_a_browser_at_phone_width_and_with_sorted_tables(runs, tmp_path):
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on PATH")
    write_report([runs], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "page.html").write_text(text.replace("</body>", PROBE))
    (tmp_path / "frame.html").write_text(FRAME)
    options = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --dump-dom"
    options += " --window-size=1400,900 --virtual-time-budget=5000"
    command = [program, *options.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    command.append(f"file://{tmp_path / 'frame.html'}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    sent = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    facts = json.loads(html.unescape(sent.group(1)))
    assert "CONSOLE" not in done.stderr
    assert facts["requests"] == []
    assert not facts["stolen"]
    assert facts["width"] <= 375
    assert (facts["outside"], facts["small"]) == (0, 0)
    assert len(facts["pictures"]) == 5
    assert min(facts["pictures"]) > 0
    assert set(facts["before"].split()) == {"none"}
    falling, rising, names, names_back = facts["clicks"]
    assert falling["cells"] == ["15.03 ± 0.15", "10.00 ± 0.10", "9.13 ± 0.15", "–"]
    assert rising["cells"] == ["9.13 ± 0.15", "10.00 ± 0.10", "15.03 ± 0.15", "–"]
    assert names["cells"][1:] == ["mls", "mocov2", "random"]
    assert names_back["cells"] == names["cells"][::-1]
    orders = ["descending", "ascending", "ascending", "descending"]
    for click, order in zip(facts["clicks"], orders, strict=True):
        sorts = click["sorts"].split()
        assert click["focused"]
        assert sorts.pop(click["column"]) == order
        assert set(sorts) == {"none"}
