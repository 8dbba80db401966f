"""What the make targets run (`make -n`, and one with a stub in place of the tools)."""

import os
import re
import shutil
import subprocess

import pytest

from tests.conftest import REPOSITORY
from tests.test_docs import options_of

MAKE = shutil.which("make")
TEXT = (REPOSITORY / "Makefile").read_text()
COMMON = '--follow --out "output" --data "datasets/scenes"'

pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")


def make(*arguments: str, **environment: str) -> list[str]:
    """Return the lines that run a tool, without the environment's python."""
    # Variables of a make that runs the tests must not reach the one that is tested.
    ours = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", *re.findall(r"^(\w+) \?=|\$\((\w+)\)", TEXT)}
    names = {name for item in ours for name in ((item,) if isinstance(item, str) else item)}
    clean = {name: value for name, value in os.environ.items() if name not in names}
    command = [str(MAKE), "-n", "-o", "setup", "VENV=v", *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=clean | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = (" ".join(line.split()) for line in done.stdout.replace("\\\n", " ").splitlines())
    return [line.replace("v/bin/python tools/", "") for line in lines if "tools/" in line]


def test_the_makefile_is_short_and_plain():
    assert len(TEXT.splitlines()) <= 120
    assert not re.search(r"\$\((call|foreach|eval) ", TEXT)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("pretrain", "SEED=3", "ARGS=MLS.K 5", "NUM_GPUS=8"),
         [f'benchmark.py --only pretrain --methods "mls" --preset quick --epochs 400 {COMMON}'
          " --num-gpus 8 --seed 3 MLS.K 5"]),
        (("eval-coco-c4", "METHOD=random", "SEEDS=0,1"),
         ['benchmark.py --only eval --methods "random" --preset quick --epochs 400 '
          f'{COMMON} --seeds "0,1" --tasks coco-c4']),
        (("eval-all", "BACKBONE=a b.pth", "OUT=c d", "DATA=e f", "EPOCHS=800", "PRESET=paper"),
         ['benchmark.py --only eval --backbone "a b.pth" --preset paper --epochs 800 '
          '--follow --out "c d" --data "e f" --tasks all']),
        (("demo", "METHOD=mocov2"),
         ['benchmark.py --methods "mocov2 random" --tasks demo --jobs 2 '
          f"--preset quick --epochs 400 {COMMON}"]),
        (("benchmark", "METHODS=random mls", "TASKS=coco voc", "SEEDS=0,1", "ARGS=--dry-run"),
         ['benchmark.py "suites/quick.yaml" --methods "random mls" --tasks "coco voc" '
          '--out "output" --data "datasets/scenes" --seeds "0,1" --dry-run']),
        (("benchmark", "PRESET=paper", "OUT=o"),
         ['benchmark.py "suites/paper_table1.yaml" --out "o" --data "/real data"']),
        (("benchmark", "PRESET=onegpu"),
         ['benchmark.py "suites/onegpu.yaml" --out "output" --data "/real data"']),
        (("report", "PRESET=paper"), ['report.py "output/paper" --out "output/paper/report"']),
        (("figures", "METHOD=mocov2", "OUT=o", "ARGS=--seed 3"),
         ['DETECTRON2_DATASETS="datasets/scenes" figures.py "o/quick" --method "mocov2" '
          "--seed 3"]),
        (("convert", "SRC=a b.pth", "ARGS=--force"), ['convert.py "a b.pth" --force']),
        (("gpu-check", "ARGS=--device cpu"),
         ['gpu_check.py --out "output/gpu_check.json" --device cpu']),
        (("data",), ['make_scenes.py --root "datasets/scenes"']),
        (("data", "PRESET=paper"), ['DETECTRON2_DATASETS="/real data" prepare_data.py']),
    ],
)  # fmt: skip
def test_a_target_is_a_command_that_a_user_could_type(
    arguments: tuple[str, ...], lines: list[str]
) -> None:
    assert make(*arguments, DETECTRON2_DATASETS="/real data") == lines
    for line in lines:
        tool = re.search(r"\w+\.py", line)
        assert tool
        assert set(re.findall(r" (--[a-z-]+)", line)) <= options_of(f"tools/{tool[0]}")


@pytest.mark.parametrize("argument", ['OUT=a"b', "DATA=a`b", "BACKBONE=a\\b.pth"])
def test_a_path_that_the_shell_would_change_is_refused(argument: str) -> None:
    command = [str(MAKE), "-n", "-o", "setup", "pretrain", argument]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert "rename it" in done.stderr


def test_every_target_sets_up_first_and_is_listed() -> None:
    targets = re.findall(r"^([a-z0-9-]+):.*## ", TEXT, re.M)
    for target in set(targets) - {"help", "clean", "setup"}:
        done = subprocess.run(
            [str(MAKE), "-n", target, "VENV=no-such-environment"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        setup = done.stdout.index("tools/provide_detectron2.py")
        assert setup < done.stdout.rindex("no-such-environment/bin/"), target


@pytest.mark.parametrize("ours", [True, False])
def test_setup_keeps_the_versions_of_an_environment_of_the_users_own(tmp_path, ours):
    python = tmp_path / "env/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\n')
    python.chmod(0o755)
    if ours:
        (tmp_path / "env/.made-here").touch()
    subprocess.run(
        [str(MAKE), "setup", f"VENV={tmp_path}/env"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    pins = " -c constraints.txt" if ours else ""
    installed = [
        line
        for line in (tmp_path / "calls").read_text().splitlines()
        if "/" in line or "install" in line
    ]
    assert installed == [
        f"-m pip install -q{pins} torch torchvision",
        f"-m pip install -q{pins} -e .[dev]",
        f"tools/provide_detectron2.py{pins}",
    ]
