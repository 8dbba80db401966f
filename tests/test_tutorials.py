"""Every command of the tutorials, typed as it stands; the tools append what makes it small."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mls_d2.results.schema import collect_results
from tests.mls_d2.conftest import NETWORK
from tests.mls_d2.convert.sources import encoder, under
from tests.mls_d2.runner.test_slurm import FAKE_SACCT, FAKE_SBATCH
from tests.test_docs import REPOSITORY
from tests.tools.test_benchmark import DETECTION, PRETRAIN

# In place of a tool: appends the words of the first key that its command line has. A pretraining
# that was made small is no longer the one that --methods names: --backbone takes its place.
TOOL = """#!{python}
import os, sys
typed, line = sys.argv[1:], " ".join(sys.argv[1:])
more = next((words for key, words in {more!r}.items() if key in line), [])
if "--backbone" in more:
    place = typed.index("--methods")
    del typed[place : place + 2]
os.execv(sys.executable, [sys.executable, {tool!r}, *typed, *more])
"""
ONE_PROCESS = {"MODEL.DEVICE": "cpu", "SOLVER.REFERENCE_WORLD_SIZE": 1}

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
]


def words(keys: dict[str, Any]) -> list[str]:
    return [str(word) for pair in keys.items() for word in pair]


@pytest.fixture
def type_page(tmp_path: Path, scenes_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that types the blocks of a page into one shell, in a clone."""
    clone, programs = tmp_path, tmp_path / "bin"
    (clone / "tools").mkdir()
    programs.mkdir()
    for name in ("Makefile", "pretrain", "suites", "transfer_configs"):
        (clone / name).symlink_to(REPOSITORY / name)
    # Without the marker of scenes, which only preset quick takes.
    shutil.copytree(scenes_root, clone / "datasets", ignore=shutil.ignore_patterns("scenes.json"))
    make = f'#!/bin/sh\nexec {shutil.which("make")} -o setup VENV={sys.prefix} "$@"\n'
    fakes = {"make": make, "sbatch": FAKE_SBATCH, "sacct": FAKE_SACCT, "srun": ""}
    for name, text in fakes.items():
        (programs / name).write_text(text.replace("{python}", sys.executable))
        (programs / name).chmod(0o755)
    path = (str(programs), str(Path(sys.executable).parent), os.environ["PATH"])
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(clone / "datasets"))

    def run(page: str, **more: dict[str, list[str]]) -> str:
        for tool in (REPOSITORY / "tools").glob("[!_]*.py"):
            text = TOOL.format(python=sys.executable, more=more.get(tool.stem, {}), tool=str(tool))
            (clone / "tools" / tool.name).write_text(text)
            (clone / "tools" / tool.name).chmod(0o755)
        blocks = re.findall(
            r"(?s)```\n(.*?)```", (REPOSITORY / f"docs/tutorials/{page}.md").read_text()
        )
        done = subprocess.run(
            ["bash", "-euc", "\n".join(blocks)],
            cwd=clone, text=True, stdout=-1, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def draw(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.randint(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60)).save(folder / f"{index}.png")


def test_own_images(type_page, tmp_path):
    draw(tmp_path / "photos", 40)
    for split in ("train", "val"):
        for name in ("finch", "gull", "heron"):
            draw(tmp_path / "labelled" / split / name, 3)
    tiny = NETWORK | {"SOLVER.MAX_ITER": 2, "SOLVER.IMS_PER_BATCH": 3}
    tiny |= {"CLASSIFICATION.CROP_SIZE": 32, "CLASSIFICATION.RESIZE": 40}
    pretrain = PRETRAIN | {"SOLVER.IMS_PER_BATCH": 16}  # two for each group of BatchNorm
    type_page("own-images", pretrain={"": words(pretrain)}, train_net={"": words(tiny)})
    output = tmp_path / "output"
    assert (output / "try/figures/figure4.jpg").is_file()
    runs, problems = collect_results([output / "labelled"])
    assert {run.result.method for run in runs} == {"mls", "random"}
    assert {run.result.dataset.num_images for run in runs} == {9}
    assert not problems
    assert (output / "labelled/report/report.html").is_file()


def test_a_checkpoint_from_elsewhere(type_page, tmp_path):
    state = under("module.encoder_q.", encoder(0))
    content = {"epoch": 800, "arch": "resnet50", "state_dict": state}
    torch.save(content, tmp_path / "moco_v2_800ep_pretrain.pth.tar")
    # The network of that file.
    narrow = {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16, "WIDTH_PER_GROUP": 4}
    network = {f"MODEL.RESNETS.{key}": value for key, value in narrow.items()}
    small = words(DETECTION | network | ONE_PROCESS)
    printed = type_page("checkpoint", benchmark={"--only eval": small, "": ["--dry-run"]})
    runs, problems = collect_results([tmp_path / "output/paper/coco"])
    assert {run.result.method for run in runs} == {"mocov2", "random"}
    assert {run.result.backbone.info.get("epochs") for run in runs} == {800, None}
    assert not problems
    assert "convert/moco" in printed


def test_one_gpu(type_page, tmp_path):
    backbone = "output/onegpu/pretrain/mls-seed0/backbone.pth"
    detection = words(DETECTION | ONE_PROCESS | {"SOLVER.AMP.ENABLED": False})
    more = {
        "--only pretrain": words(PRETRAIN | ONE_PROCESS),
        "--only eval --methods mls": [*detection, "--backbone", backbone],
        "--only eval": detection,
        "": ["--dry-run"],
    }
    check = {"": ["--device", "cpu", "--only", "device"]}
    printed = type_page("one-gpu", benchmark=more, gpu_check=check, prepare_data={"": ["--subset"]})
    assert "GPU-hours and disk" in printed
    runs, problems = collect_results([tmp_path / "output/onegpu"])
    assert {run.result.method for run in runs} == {"mls", "random"}
    assert not problems


def test_a_cluster(type_page, tmp_path):
    type_page("cluster")
    first, *cells = (path.read_text() for path in sorted((tmp_path / "bin").glob("*.sh")))
    assert "#SBATCH --nodes=2" in first
    assert "#SBATCH --gpus-per-node=8" in first
    waiting = [cell for cell in cells if "#SBATCH --dependency=afterok:" in cell]
    assert (len(cells), len(waiting)) == (9, 4)
