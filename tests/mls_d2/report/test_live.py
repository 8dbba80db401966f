"""The page of runs in progress: what it reads, over HTTP, and in a browser."""

import contextlib
import json
import os
import threading
import urllib.error
import urllib.request

import pytest

from mls_d2.report.live import LOOPBACK, Run, find_runs, make_server
from mls_d2.report.tables import ReportOptions

EVIL = "<script>window.stolen = 1</script><b>\"'&"
NOW = 1_000_000.0


@pytest.fixture
def save(tmp_path):
    """Return a function that writes the files of a run, the newest of them ``age`` seconds old."""

    def write(name, facts, metrics=(), *, age=5.0, files=()):
        folder = tmp_path / "out" / name
        folder.mkdir(parents=True)
        (folder / "environment.json").write_text(json.dumps(facts))
        lines = [json.dumps(entry) if isinstance(entry, dict) else entry for entry in metrics]
        (folder / "metrics.json").write_text("\n".join(lines))
        for file, content in dict(files).items():
            (folder / file).write_text(content)
        for path in folder.iterdir():
            os.utime(path, (NOW - age, NOW - age))
        return folder

    return write


@contextlib.contextmanager
def served(folder):
    with make_server([folder], ReportOptions()) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert server.server_address[0] == LOOPBACK
        try:
            yield f"http://{LOOPBACK}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


FACTS = {"task": "pretraining", "method": "mls", "max_iter": 1000, "synthetic": True}
ENTRY = {"iteration": 199, "loss_nce": 5.25, "total_loss": 7.0, "images_per_s": 64.0, "time": 1.5}


def test_a_running_run_shows_its_newest_values_and_the_time_that_is_left(save, tmp_path):
    older = {**ENTRY, "iteration": 179, "loss_ml": 0.5, "total_loss": 9.0}
    # A value that is not finite or far too long, a line without an object, and one half written.
    odd = ['{"iteration": 199, "loss_dense": NaN, "loss_knn": 1' + "0" * 400 + "}", "[1]"]
    save("a", FACTS, [older, ENTRY, *odd, '{"iteration": 219, "loss_n'])
    numbers = {"loss_nce": "5.25", "total_loss": "7", "loss_ml": "0.5"}
    numbers |= {"images/s": "64.0", "ETA": "0:20:00"}  # 800 steps of 1.5 s
    run = Run("out/a", "pretraining, mls, synthetic scenes", "running", "", 200, 1000, numbers)
    assert find_runs([tmp_path / "out"], NOW) == [run]


def test_states_follow_from_the_files_and_running_runs_come_first(save, tmp_path):
    cell = {"name": "coco/mls-seed0", "status": "failed", "message": "no memory"}
    save("done", FACTS, [ENTRY], age=1, files={"backbone.pth": "", "cell.json": json.dumps(cell)})
    save("failed", {}, files={"cell.json": json.dumps(cell)}, age=3)
    save("last", FACTS, [{**ENTRY, "iteration": 999}], age=4)
    save("quiet", FACTS, [ENTRY], age=3600)
    save("new", FACTS, age=2, files={"cell.json": "{"})
    (tmp_path / "out" / "link").symlink_to("new")
    runs = find_runs([tmp_path / "out"], NOW)
    assert [(run.name, run.state, run.message, run.step) for run in runs] == [
        ("out/link", "running", "", 0),
        ("out/last", "running", "", 1000),
        ("coco/mls-seed0", "failed", "no memory", 0),
        ("out/quiet", "quiet for 1:00:00", "", 200),
        ("coco/mls-seed0", "finished", "", 200),
    ]
    assert runs[1].numbers["ETA"] == "trained; evaluates or writes"
    assert "ETA" not in runs[3].numbers


def test_the_page_over_http_is_renewed_and_escapes_every_text(
    save, tmp_path, make_result, save_run
):
    evil = {"name": EVIL, "status": "failed", "message": EVIL}
    save("evil", {"task": EVIL, "method": EVIL}, files={"cell.json": json.dumps(evil)})
    folder = save("a", FACTS, [{**ENTRY, f"loss{EVIL}": 1}])
    with served(tmp_path) as url:
        page = get(url)
        assert "<td" not in page
        assert page.count("&lt;script&gt;") == 5  # name, task, method, message, loss
        assert "200 of 1000 steps" in page
        (folder / "metrics.json").write_text(json.dumps({**ENTRY, "iteration": 299}))
        save_run("one", make_result(EVIL, ap=21.5))
        page = get(f"{url}?again")
        assert "300 of 1000 steps" in page
        assert ">21.50<" in page
        assert "SYNTHETIC SCENES" in page
        assert "coco_mask_rcnn_fpn, preset quick, synthetic scenes" in page
        assert "<script" not in page
        assert "<b>" not in page
        (tmp_path / "runs" / "one" / "results.json").write_text("{")
        page = get(url)
        assert "<td" not in page
        assert "is not valid JSON" in page
        for path in ("metrics.json", "../etc/passwd", "%2e%2e/"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                get(f"{url}{path}")
            assert caught.value.code == 404


PROBE = """
<script>
addEventListener("load", () => {
  const box = (node) => node.getBoundingClientRect();
  const inner = document.querySelectorAll("main p, main h2, article, dl div, progress, .scroll");
  parent.postMessage(JSON.stringify({
    width: document.documentElement.scrollWidth,
    outside: Array.from(inner).filter((node) => box(node).right > innerWidth + 1).length,
    small: Array.from(document.querySelectorAll("td, p, dt, dd"))
      .filter((node) => parseFloat(getComputedStyle(node).fontSize) < 14).length,
    share: document.querySelector("progress").position,
    stolen: "stolen" in window,
  }), "*");
});
</script></body>
"""


@pytest.mark.full
def test_in_a_browser_at_phone_width(save, tmp_path, make_result, save_run, browse):
    save(f"run-{'long-' * 30}", FACTS, [{**ENTRY, EVIL.replace("<", "loss<"): 1}])
    save_run("one", make_result(EVIL, ap=21.5))
    with served(tmp_path) as url:
        page = get(url)
    # The page's own policy forbids every script, this one too.
    page = page.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    facts = browse(page.replace("</body>", PROBE))
    assert facts.pop("width") <= 375
    assert facts == {"outside": 0, "small": 0, "share": 0.2, "stolen": False}


def test_a_missing_folder_and_a_taken_port_are_refused(tmp_path, refuses):
    with refuses("missing-file"):
        make_server([tmp_path / "none"], ReportOptions())
    with make_server([tmp_path], ReportOptions()) as server, refuses("bad-option") as caught:
        make_server([tmp_path], ReportOptions(), port=server.server_port)
    assert caught.match(str(server.server_port))
