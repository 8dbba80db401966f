"""The installed package: complete, and of use without the clone."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import mls_d2
from mls_d2.commands import COMMANDS
from tests.conftest import REPOSITORY
from tests.mls_d2.conftest import NETWORK
from tests.tools.test_benchmark import PRETRAIN

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

FOLDERS = ("mls_d2", "pretrain", "tools", "suites", "transfer_configs")
# What stands for a folder of the clone in the wheel.
INSTALLED = ("tools", "suites", "transfer_configs", "pretrain/configs")


def test_pyproject_lists_all_packages_and_commands():
    if tomllib is None:
        pytest.skip("Python 3.10 has no tomllib")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(REPOSITORY).parts)
        for folder in ("mls_d2", "pretrain")
        for path in (REPOSITORY / folder).rglob("__init__.py")
    }
    assert listed == found | {f"mls_d2.files.{name.replace('/', '.')}" for name in INSTALLED}
    assert set(project["project"]["scripts"]) == set(COMMANDS)
    tools = {path.name for path in (REPOSITORY / "tools").glob("[!_]*.py")}
    assert {tool for tool, *_ in COMMANDS.values()} == tools


def test_all_files_have_the_same_versions():
    assert f"\n## {mls_d2.__version__}\n" in (REPOSITORY / "CHANGELOG.md").read_text()
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == mls_d2.__version__
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    ruff = hooks["repos"][0]["rev"].removeprefix("v")
    assert f"\nruff=={ruff}\n" in (REPOSITORY / "constraints.txt").read_text()


@pytest.mark.parametrize("python", ["3.10", "3.13"])
def test_every_tested_version_exists_for_the_python_that_it_is_pinned_for(python):
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    for pin in (Requirement(line) for line in lines if not line.startswith("#")):
        if pin.marker and not pin.marker.evaluate({"python_version": python}):
            continue
        try:
            installed = importlib.metadata.distribution(pin.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # Of the documentation.
        if installed.version in pin.specifier:
            needed = SpecifierSet(installed.metadata.get("Requires-Python") or "")
            assert f"{python}.99" in needed, pin


def test_reports_need_neither_torch_nor_detectron2():
    code = """
import importlib, pkgutil, sys
class Blocker:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "detectron2", "fvcore"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocker)
for name in ("mls_d2.report", "mls_d2.results"):
    for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
        print(importlib.import_module(module.name).__name__)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, stdout=-1)
    files = [*(REPOSITORY / "mls_d2").glob("re[ps]*/*.py")]
    names = {f"mls_d2.{path.parent.name}.{path.stem}" for path in files}
    assert done.returncode == 0
    assert set(done.stdout.split()) == {name for name in names if not name.endswith("__init__")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of a copy, so that the build leaves nothing in the clone."""
    source = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(
            REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    out = tmp_path_factory.mktemp("wheel")
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "-q")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *flags, str(source), "-w", str(out)], check=True
    )
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    flags = ("--no-deps", "--no-index", "-q", "--target", str(target))
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, str(wheel)], check=True)
    return target


def in_wheel(path: str) -> str:
    moved = path.startswith(tuple(f"{name}/" for name in INSTALLED))
    return f"mls_d2/files/{path}" if moved else path


@pytest.mark.full
def test_the_wheel_has_every_file_of_the_packages(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {
        in_wheel(path.relative_to(REPOSITORY).as_posix())
        for folder in FOLDERS
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith("Dockerfile")
    }


@pytest.mark.full
def test_the_installed_commands_go_from_scenes_to_a_report(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "DETECTRON2_DATASETS": str(tmp_path / "data")}

    def run(name: str, *words: str) -> str:
        command = [sys.executable, str(installed / "bin" / name), *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, done.stdout
        assert str(REPOSITORY) not in done.stdout
        return done.stdout

    sizes = {"train": 16, "val": 8, "unlabeled": 16, "voc": 8, "cityscapes": 0}
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    run("mls-scenes", "--root", "data", "--size", "96", "96", *words)
    suite = {
        "methods": [{"method": "mls", "opts": PRETRAIN | {"PRETRAIN.EPOCHS": 1.0}}],
        "tasks": [{"task": "voc2007-knn", "opts": NETWORK}],
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(suite))
    run("mls-benchmark", "tiny.yaml")
    cell = tmp_path / "output" / "tiny" / "pretrain" / "mls-seed0"
    tool = (cell / "output.txt").read_text().split()[2]
    assert Path(tool) == installed / "mls_d2" / "files" / "tools" / "pretrain.py"
    (metrics,) = (cell / "metrics.json").read_text().splitlines()[-1:]
    assert json.loads(metrics)["iteration"] == 1

    backbone = str(cell / "backbone.pth")
    run("mls-convert", backbone, "timm.safetensors", "--to", "timm")
    run("mls-convert", "timm.safetensors", "again.pth")
    narrow = [str(word) for pair in NETWORK.items() for word in pair]
    weights = ["MODEL.WEIGHTS", "again.pth", "OUTPUT_DIR", "knn"]
    run("mls-train", "--config-file", "voc2007_knn_quick", *narrow, *weights)
    assert "knn" in run("mls-report", "knn")
    assert (tmp_path / "knn" / "report" / "report.html").is_file()
