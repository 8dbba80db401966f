"""The page as text, and, if Chromium is installed, as a browser shows it."""

import html.parser
import re
from pathlib import Path

import pytest
from PIL import Image

from mls_d2.report import render
from mls_d2.report.build import write_report
from mls_d2.report.tables import ReportOptions

EVIL = "<script>window.stolen = 1</script><b>bold</b>\"'&"


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
    save_run("evil", make_result(EVIL, metrics=metrics))
    save_run("other", make_result(EVIL, task=f"task {EVIL}"))
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
def test_in_a_browser_at_phone_width_and_with_sorted_tables(runs, tmp_path, browse):
    write_report([runs], tmp_path / "out")
    facts = browse((tmp_path / "out" / "report.html").read_text().replace("</body>", PROBE))
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
