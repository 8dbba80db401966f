"""Results to report on, as an evaluation would leave them."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mls_d2.results.schema import Dataset, Device, InitialWeights, Result, write_result

SCENES = Dataset(
    name="coco_2017_val", root="scenes", num_images=300, synthetic=True, fingerprint="f00d"
)
COCO = Dataset(
    name="coco_2017_train, coco_2017_val",
    root="datasets",
    num_images=118287,
    synthetic=False,
    fingerprint="c0c0",
)


def backbone_of(method: str, info: dict, sha256: str = "") -> InitialWeights:
    if method == "random":
        return InitialWeights(file="random", sha256="", info={})
    sha256 = sha256 or (method.encode().hex() * 64)[:64]
    return InitialWeights(file=f"output/{method}/backbone.pth", sha256=sha256, info=info)


def build_result(
    method: str = "mls",
    seed: int = 0,
    *,
    ap: float = 15.0,
    max_iter: int = 300,
    pretraining: dict | None = None,
    **fields: object,
) -> Result:
    """Return a quick result on scenes; ``fields`` replace whole fields."""
    config = yaml.safe_dump(pretraining or {"MLS": {"K": 5}})
    info = {"dataset": ["coco_2017_unlabeled"], "epochs": 60, "synthetic": True, "config": config}
    recipe = {"OUTPUT_DIR": f"out/{seed}", "SEED": int(seed), "SOLVER": {"MAX_ITER": max_iter}}
    bbox = {"AP": ap, "AP50": 2 * ap, "APs": 1.0, "AP-person": 3.0}
    defaults = {
        "method": method,
        "backbone": backbone_of(method, info),
        "task": "coco_mask_rcnn_fpn",
        "preset": "quick",
        "metrics": {"bbox": bbox, "segm": {"AP": ap - 1}},
        "seed": seed,
        "dataset": SCENES,
        "device": Device(kind="cpu", name="x86_64", count=2),
        "config": yaml.safe_dump(recipe),
        "versions": {"python": "3.11", "torch": "2.5"},
        "wall_time_s": 80.0,
        "peak_memory_mb": 2000.0,
        "images_per_s": 30.0,
        "finished": f"2025-01-01T00:00:{seed:02d}Z",
        "command": "tools/train_net.py",
    }
    return Result(**{**defaults, **fields})  # type: ignore[arg-type]


def build_paper_result(
    method: str = "mls", seed: int = 0, info: dict | None = None, **fields: object
) -> Result:
    """Return a result of the published recipe on real COCO, pretrained for 400 epochs."""
    info = info or {"dataset": ["coco_2017_train"], "epochs": 400.0}
    recipe = {"SEED": int(seed), "SOLVER": {"MAX_ITER": 90000, "IMS_PER_BATCH": 16}}
    defaults = {
        "preset": "paper",
        "config": yaml.safe_dump(recipe),
        "dataset": COCO,
        "backbone": backbone_of(method, info),
    }
    return build_result(method, seed, **{**defaults, **fields})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def make_paper_result() -> Callable[..., Result]:
    return build_paper_result


@pytest.fixture(scope="session")
def make_result() -> Callable[..., Result]:
    return build_result


@pytest.fixture
def save_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a result, with a short training curve, into a run folder."""

    def save(name: str, result: Result) -> Path:
        folder = tmp_path / "runs" / name
        write_result(folder / "results.json", result)
        lines = [json.dumps({"iteration": i, "total_loss": 3 - 0.1 * i}) for i in range(5)]
        (folder / "metrics.json").write_text("\n".join(lines) + "\n")
        return folder / "results.json"

    return save


# A page of a phone's width; what it sends is the text of this one.
FRAME = """<!DOCTYPE html><body><pre></pre><script>
addEventListener("message", (event) => { document.querySelector("pre").textContent = event.data; });
</script><iframe src="page.html" width="375" height="800" style="border: 0"></iframe></body>
"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Return a function that shows a page in Chromium and returns the JSON that it sends."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on PATH")

    def show(page: str) -> dict[str, Any]:
        (tmp_path / "page.html").write_text(page)
        (tmp_path / "frame.html").write_text(FRAME)
        options = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --dump-dom"
        options += " --window-size=1400,900 --virtual-time-budget=5000"
        command = [program, *options.split(), f"--user-data-dir={tmp_path / 'profile'}"]
        command.append(f"file://{tmp_path / 'frame.html'}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in done.stderr
        sent = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
        return json.loads(html.unescape(sent.group(1)))

    return show
