"""The notebook of the documentation runs from its first cell to its last."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mls_d2.results.schema import read_result
from tests.conftest import REPOSITORY

CELLS = [
    cell
    for cell in json.loads((REPOSITORY / "docs" / "first-steps.ipynb").read_text())["cells"]
    if cell["cell_type"] == "code"
]


def test_it_is_committed_without_outputs():
    assert CELLS
    assert not any(cell["outputs"] or cell["execution_count"] for cell in CELLS)


@pytest.mark.full
def test_it_makes_a_backbone_neighbours_and_detections(tmp_path):
    code = "\n".join("".join(cell["source"]) for cell in CELLS)
    command = [sys.executable, "-c", f"{code}\nprint(work)"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    work = Path(done.stdout.splitlines()[-1])
    assert work.parent == tmp_path
    result = read_result(work / "coco" / "results.json")
    assert result.method == "mls"
    assert result.backbone.info["iterations"] == 8
    assert result.dataset.synthetic
    for picture in ("figures/figure4.jpg", "coco/predictions.png"):
        assert min(Image.open(work / picture).size) > 100
