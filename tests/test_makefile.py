"""What the make targets would run, and which values they refuse. Nothing is run (`make -n`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
MAKE = shutil.which("make")

QUICK = (REPOSITORY / "pretrain" / "configs").glob("*_quick.yaml")
METHODS = " ".join(sorted(path.name.removesuffix("_quick.yaml") for path in QUICK))

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
        "SEEDS",
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
        (("pretrain", "METHOD=simclr9"), f"METHOD=simclr9 is not known here. Valid: {METHODS}"),
        (("pretrain", "METHOD=random"), f"METHOD=random is not known here. Valid: {METHODS}"),
        (("pretrain", "METHOD=mls mocov2"), "METHOD=mls mocov2 is not known here"),
        (("pretrain", "METHOD="), "METHOD= is not known here"),
        (("eval-coco", "METHOD=rand"), "METHOD=rand is not known here. Valid: "),
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
    steps, (learned, compared), (random, _) = (
        tool_lines("\n".join(own[name])) for name in ("", "mocov2", "random")
    )
    names = [line.split("tools/")[1].split()[0] for line in steps]
    assert names == ["make_scenes.py", "pretrain.py", "report.py"]
    recipe = "transfer_configs/coco/mask_rcnn_R_50_FPN_quick.yaml"
    assert f"--config-file {recipe} --resume" in learned
    assert "MODEL.WEIGHTS output/quick/mocov2/backbone.pth" in learned
    assert "OUTPUT_DIR output/quick/coco/mocov2-seed2 SEED 2" in learned
    assert compared.endswith("tools/report.py --summary output/quick/coco/mocov2-seed2")
    expected = learned.replace("output/quick/mocov2/backbone.pth", "random")
    assert random == expected.replace("mocov2-seed2", "random-seed2")
    assert (REPOSITORY / recipe).is_file()


EVALS = ("eval-coco", "eval-coco-c4", "eval-voc", "eval-cityscapes", "eval-cls")


def runs_of(*arguments: str, **environment: str) -> list[tuple[str, str, int]]:
    """Return (config below transfer_configs, folder below the preset's, seed) of each run."""
    found = []
    for line in tool_lines(make(*arguments, "OUT=o", **environment).stdout):
        if "tools/train_net.py" in line:
            words = line.split()
            after = {
                word: words[words.index(word) + 1]
                for word in ("--config-file", "OUTPUT_DIR", "SEED")
            }
            config = after["--config-file"].removeprefix("transfer_configs/")
            folder = after["OUTPUT_DIR"].split("/", 2)[2]
            found.append((config, folder, int(after["SEED"])))
    return found


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("eval-coco", [("coco/mask_rcnn_R_50_FPN_quick.yaml", "coco/mls-seed0", 0)]),
        ("eval-coco-c4", [("coco/mask_rcnn_R_50_C4_quick.yaml", "coco-c4/mls-seed0", 0)]),
        ("eval-voc", [("voc/faster_rcnn_R_50_C4_quick.yaml", "voc/mls-seed0", 0)]),
        (
            "eval-cityscapes",
            [
                (f"cityscapes/{name}_R_50_quick.yaml", f"cityscapes-{name}/mls-seed0", 0)
                for name in ("pspnet", "psanet")
            ],
        ),
        (
            "eval-cls",
            [
                (f"classification/{name}_quick.yaml", f"cls-{name}/mls-seed0", 0)
                for name in (
                    "voc2007_finetune",
                    "voc2007_svm",
                    "voc2007_knn",
                    "scenes_objects_finetune",
                )
            ],
        ),
    ],
)
def test_what_an_evaluation_runs(target: str, runs: list[tuple[str, str, int]]) -> None:
    assert runs_of(target) == runs


def test_eval_all_runs_every_evaluation_once() -> None:
    together = [run for target in EVALS for run in runs_of(target)]
    assert runs_of("eval-all") == together
    assert len(set(together)) == len(together) == 9


def test_configs_of_evaluations_are_there(tmp_path: Path) -> None:
    quick = runs_of("eval-all")
    paper = runs_of("eval-all", "PRESET=paper", DETECTRON2_DATASETS=str(tmp_path))
    for config, *_ in quick + paper:
        assert (REPOSITORY / "transfer_configs" / config).is_file(), config


@pytest.mark.parametrize(
    ("target", "arguments", "seeds"),
    [
        ("eval-voc", (), [0, 1, 2]),
        ("eval-cityscapes", (), [0, 1, 0, 1]),
        ("eval-coco", (), [0]),
        ("eval-coco-c4", ("SEEDS=3,5",), [3, 5]),
        ("eval-voc", ("SEED=4",), [4]),
        ("eval-voc", ("SEED=4", "SEEDS=7"), [7]),
    ],
)
def test_seeds_are_those_asked_for_or_as_many_as_the_paper_had(
    target: str, arguments: tuple[str, ...], seeds: list[int], tmp_path: Path
) -> None:
    environment = {"DETECTRON2_DATASETS": str(tmp_path)}
    runs = runs_of(target, "PRESET=paper", *arguments, **environment)
    assert [seed for *_, seed in runs] == seeds
    assert all(folder.endswith(f"/mls-seed{seed}") for _, folder, seed in runs)


def test_cityscapes_runs_on_no_more_gpus_than_its_recipe_is_for(tmp_path: Path) -> None:
    environment = {"DETECTRON2_DATASETS": str(tmp_path)}
    for target, given, used in (
        ("eval-cityscapes", 8, 4),
        ("eval-cityscapes", 2, 2),
        ("eval-voc", 8, 8),
    ):
        output = make(target, "PRESET=paper", f"NUM_GPUS={given}", **environment).stdout
        runs = [line for line in tool_lines(output) if "train_net.py" in line]
        assert runs
        assert all(f"--num-gpus {used} " in line for line in runs)


def test_what_was_run_is_compared_with_the_paper(tmp_path: Path) -> None:
    output = make("eval-voc", "SEEDS=0,1", "OUT=o", "METHOD=random").stdout
    assert tool_lines(output)[-1].endswith(
        "report.py --summary o/quick/voc/random-seed0 o/quick/voc/random-seed1"
    )


def test_scenes_that_only_an_evaluation_needs_are_drawn_for_it() -> None:
    drawn = [line for line in tool_lines(make("eval-voc").stdout) if "make_scenes" in line]
    assert [line.split("make_scenes.py ")[1] for line in drawn] == [
        "--root datasets/scenes --train 0 --val 0 --unlabeled 0 --voc 200"
    ]
    assert not [line for line in tool_lines(make("eval-coco").stdout) if "make_scenes" in line]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_paper_preset_without_a_gpu_offers_the_quick_one(tmp_path: Path) -> None:
    arguments = [f"VENV={venv_with_this_python(tmp_path)}", "PRESET=paper", f"DATA={tmp_path}"]
    done = subprocess.run(
        [str(MAKE), "require-gpu", "-o", "setup", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "PyTorch finds none here" in done.stderr
    assert "make require-gpu PRESET=quick" in done.stderr
    cpu = subprocess.run(
        [str(MAKE), "require-gpu", "-o", "setup", *arguments, "ARGS=MODEL.DEVICE cpu"],
        cwd=REPOSITORY,
    )
    assert cpu.returncode == 0


def venv_with_this_python(folder: Path) -> Path:
    """Return a folder in whose bin/python this interpreter runs."""
    (folder / "venv" / "bin").mkdir(parents=True)
    script = folder / "venv" / "bin" / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return folder / "venv"


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
    for target in ("data", "pretrain", *EVALS, "report", "benchmark", "check", "test"):
        done = make(target, "VENV=no-such-environment")
        assert done.returncode == 0, done.stderr
        setup = done.stdout.index("tools/provide_detectron2.py")
        assert setup < done.stdout.rindex("no-such-environment/bin/"), target


def test_convert_needs_only_a_source() -> None:
    (line,) = tool_lines(make("convert", "SRC=a b.pth").stdout)
    assert line.endswith('tools/convert.py "a b.pth"')
    (line,) = tool_lines(make("convert", "SRC=a.pth", "DST=b.pth", "ARGS=--force").stdout)
    assert line.endswith('tools/convert.py "a.pth" "b.pth" --force')
