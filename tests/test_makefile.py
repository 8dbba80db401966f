"""What the make targets would run, and which values they refuse. Nothing is run (`make -n`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MAKE = shutil.which("make")

pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Variables of a make that runs the tests must not reach the one that is tested.
    inherited = (
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
        "PRESET",
        "METHOD",
        "SEED",
        "DATA",
        "OUT",
        "ARGS",
        "METHODS",
        "TASKS",
        "SEEDS",
        "SUITE",
    )
    clean = {name: value for name, value in os.environ.items() if name not in inherited}
    command = [str(MAKE), "-n", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=clean | environment, capture_output=True, text=True
    )


def tool_lines(output: str) -> list[str]:
    joined = output.replace("\\\n", " ").replace("tools/provide_detectron2.py", "")  # set-up
    return [" ".join(line.split()) for line in joined.splitlines() if "tools/" in line]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pretrain", "PRESET=fast"), "PRESET=fast is not known here. Valid: paper quick"),
        (("pretrain", "METHOD=simclr9"), "METHOD=simclr9 is not known here. Valid: mls mocov2"),
        (("pretrain", "METHOD=random"), "METHOD=random is not known here. Valid: mls mocov2"),
        (("pretrain", "METHOD=mls mocov2"), "METHOD=mls mocov2 is not known here"),
        (("pretrain", "METHOD="), "METHOD= is not known here"),
        (("eval-coco", "METHOD=rand"), "Valid: mls mocov2 random"),
        (
            ("pretrain", "PRESET=paper", "EPOCHS=200"),
            "EPOCHS=200 is not known here. Valid: 400 800",
        ),
    ],
)
def test_unknown_values_are_refused_with_the_valid_ones(
    arguments: tuple[str, ...], message: str
) -> None:
    done = make(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert tool_lines(done.stdout) == []


def test_pretrain_writes_below_its_preset_and_passes_what_is_asked() -> None:
    (line,) = tool_lines(make("pretrain", "SEED=3", "OUT=o", "ARGS=MLS.K 5", "NUM_GPUS=8").stdout)
    assert f'DETECTRON2_DATASETS="{REPOSITORY}/datasets/scenes"' in line
    assert "tools/pretrain.py --config-file pretrain/configs/mls_quick.yaml --resume" in line
    assert line.endswith("--num-gpus 8 OUTPUT_DIR o/quick/mls SEED 3 MLS.K 5")


@pytest.mark.parametrize(("epochs", "folder"), [("400", "mls"), ("800", "mls-800ep")])
def test_the_paper_preset_takes_the_users_datasets(
    epochs: str, folder: str, tmp_path: Path
) -> None:
    done = make("pretrain", "PRESET=paper", f"EPOCHS={epochs}", DETECTRON2_DATASETS=str(tmp_path))
    (line,) = tool_lines(done.stdout)
    config = f"pretrain/configs/mls_coco_{epochs}ep.yaml"
    assert f"--config-file {config} --resume OUTPUT_DIR output/paper/{folder} SEED 0" in line
    assert f'DETECTRON2_DATASETS="{tmp_path}"' in line
    assert (REPOSITORY / config).is_file()


def test_the_demo_compares_the_method_with_random_weights() -> None:
    output = make("demo", "METHOD=mocov2", "SEED=2").stdout
    # The detectors are trained side by side, and their lines begin with their names.
    own: dict[str, list[str]] = {"mocov2": [], "random": [], "": []}
    for line in output.splitlines():
        name = next((name for name in ("mocov2", "random") if line.startswith(f"{name}: ")), "")
        own[name].append(line.removeprefix(f"{name}: "))
    steps, (learned,), (random,) = (
        tool_lines("\n".join(own[name])) for name in ("", "mocov2", "random")
    )
    names = [line.split("tools/")[1].split()[0] for line in steps]
    assert names == ["make_scenes.py", "pretrain.py", "report.py"]
    recipe = "transfer_configs/coco/mask_rcnn_R_50_FPN_quick.yaml"
    assert f"--config-file {recipe} --resume" in learned
    assert "MODEL.WEIGHTS output/quick/mocov2/backbone.pth" in learned
    assert "OUTPUT_DIR output/quick/coco/mocov2-seed2 SEED 2" in learned
    expected = learned.replace("output/quick/mocov2/backbone.pth", "random")
    assert random == expected.replace("mocov2-seed2", "random-seed2")
    assert (REPOSITORY / recipe).is_file()


def benchmark_line(*arguments: str, **environment: str) -> str:
    data, line = tool_lines(make("benchmark", *arguments, **environment).stdout)
    assert data.endswith("make_scenes.py --root datasets/scenes --voc 200")
    return line.partition("tools/benchmark.py ")[2]


def test_benchmark_runs_the_quick_suite_or_what_is_asked_for() -> None:
    assert benchmark_line() == "suites/quick.yaml --out output/benchmark"
    chosen = (
        "METHODS=random mocov2",
        "TASKS=coco voc",
        "SEEDS=0,1,2",
        "NUM_GPUS=2",
        "ARGS=--dry-run",
    )
    assert benchmark_line(*chosen) == (
        'suites/quick.yaml --methods "random mocov2" --tasks "coco voc" --seeds "0,1,2" '
        "--out output/benchmark --num-gpus 2 --dry-run"
    )
    assert benchmark_line("SUITE=mine.yaml", SEEDS="5") == "mine.yaml --out output/benchmark"


def test_benchmark_draws_the_scenes_of_its_tasks() -> None:
    for tasks, scenes in (
        ("coco", "datasets/scenes"),
        ("coco cityscapes-psp", "datasets/scenes --cityscapes 200"),
        ("cityscapes scenes-objects-knn", "datasets/scenes --voc 200 --cityscapes 200"),
    ):
        line = tool_lines(make("benchmark", f"TASKS={tasks}").stdout)[0]
        assert line.endswith(f"make_scenes.py --root {scenes}")


def test_benchmark_of_the_paper_is_its_first_table(tmp_path: Path) -> None:
    done = make("benchmark", "PRESET=paper", DETECTRON2_DATASETS=str(tmp_path))
    (line,) = tool_lines(done.stdout)
    assert "tools/benchmark.py suites/paper_table1.yaml --out output/benchmark" in line
    assert f'DETECTRON2_DATASETS="{tmp_path}"' in line


def test_every_target_sets_up_first() -> None:
    for target in ("data", "pretrain", "eval-coco", "report", "benchmark", "check", "test"):
        done = make(target, "VENV=no-such-environment")
        assert done.returncode == 0, done.stderr
        setup = done.stdout.index("tools/provide_detectron2.py")
        assert setup < done.stdout.rindex("no-such-environment/bin/"), target
