"""The repacking, on a small stand-in for the sdist; test_repacked_detectron2.py has the result."""

from __future__ import annotations

import base64
import email
import hashlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "provide_detectron2.py"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("provide_detectron2", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["provide_detectron2"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tool = load_tool()

SOURCES = {
    "LICENSE": "the licence",
    "setup.py": "raise SystemExit('must not run')",
    "tools/__init__.py": "",
    "detectron2/__init__.py": "__version__ = '0.6'\n",
    "detectron2/a.py": "old old new\n",
    "detectron2/model_zoo/configs/x.yaml": "MODEL: {}\n",
    "projects/PointRend/point_rend/__init__.py": "point = 1\n",
    "projects/PointRend/README.md": "",
}


def write_sdist(path: Path, sources: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in sources.items():
            entry = tarfile.TarInfo(f"pb1-detectron2-0.6/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("pb1-detectron2-0.6/detectron2/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return tool.read_sdist(write_sdist(tmp_path / "x.tar.gz", SOURCES))


def test_read_sdist_takes_the_packages_and_nothing_else(files: dict[str, bytes]) -> None:
    assert files == {
        "LICENSE": b"the licence",
        "detectron2/__init__.py": b"__version__ = '0.6'\n",
        "detectron2/a.py": b"old old new\n",
        "detectron2/model_zoo/configs/x.yaml": b"MODEL: {}\n",
        "detectron2/projects/point_rend/__init__.py": b"point = 1\n",
    }


@pytest.mark.parametrize("absent", ["LICENSE", "detectron2/__init__.py"])
def test_read_sdist_refuses_another_archive(tmp_path: Path, absent: str) -> None:
    sources = {name: text for name, text in SOURCES.items() if name != absent}
    with pytest.raises(tool.ProvideError, match="no Detectron2 sdist"):
        tool.read_sdist(write_sdist(tmp_path / "x.tar.gz", sources))


def test_apply_changes_replaces_every_occurrence_and_adds_files(files: dict[str, bytes]) -> None:
    change = tool.Change("why", "old", "young", {"detectron2/a.py": 2})
    tool.apply_changes(files, (change,), {"detectron2/b.py": "b = 1\n"})
    assert files["detectron2/a.py"] == b"young young new\n"
    assert files["detectron2/b.py"] == b"b = 1\n"
    assert files["detectron2/__init__.py"] == SOURCES["detectron2/__init__.py"].encode()


@pytest.mark.parametrize(
    ("path", "old", "count", "message"),
    [
        (
            "detectron2/a.py",
            "gone",
            1,
            r"a\.py: expected 'gone' 1 time.* found it 0 time",
        ),
        ("detectron2/a.py", "old", 1, r"a\.py: expected 'old' 1 time.* found it 2 time"),
        ("detectron2/c.py", "old", 1, r"detectron2/c\.py: to be changed, but not in the sdist"),
    ],
)
def test_apply_changes_stops_where_a_change_no_longer_applies(
    files: dict[str, bytes], path: str, old: str, count: int, message: str
) -> None:
    with pytest.raises(tool.ProvideError, match=message + r".*the reason"):
        tool.apply_changes(files, (tool.Change("the reason", old, "new", {path: count}),), {})


def test_apply_changes_does_not_overwrite_a_file_that_it_should_add(
    files: dict[str, bytes],
) -> None:
    with pytest.raises(tool.ProvideError, match="in the sdist already"):
        tool.apply_changes(files, (), {"detectron2/a.py": ""})


def test_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(b"abc")
    # SHA-256 of "abc", FIPS 180-2 appendix B.1
    right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    tool.verify_checksum(path, right)
    with pytest.raises(tool.ProvideError, match=f"{right}, expected {tool.SDIST_SHA256}"):
        tool.verify_checksum(path)


def test_wheel_record_lists_every_file_with_its_hash_and_size(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tool.write_wheel(files, tmp_path)) as wheel:
        contents = {name: wheel.read(name) for name in wheel.namelist()}
    record = contents.pop("detectron2-0.6.dist-info/RECORD").decode().splitlines()
    assert record.pop() == "detectron2-0.6.dist-info/RECORD,,"
    listed = {line.split(",")[0]: line.split(",")[1:] for line in record}
    assert listed.keys() == contents.keys()
    for name, data in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        assert listed[name] == [f"sha256={digest}", str(len(data))]
    assert contents["detectron2-0.6.dist-info/LICENSE"] == b"the licence"


def test_wheel_metadata(files: dict[str, bytes], tmp_path: Path) -> None:
    with zipfile.ZipFile(tool.write_wheel(files, tmp_path)) as wheel:
        metadata = email.message_from_bytes(wheel.read("detectron2-0.6.dist-info/METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("detectron2", "0.6")
    names = {re.split("[<>=]", text)[0] for text in metadata.get_all("Requires-Dist") or ()}
    assert {"torch", "fvcore", "iopath", "yacs", "pycocotools", "omegaconf"} <= names
    assert not names & {"black", "future", "pydot", "dataclasses"}


def test_wheel_bytes_depend_on_the_files_alone(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = tool.write_wheel(files, tmp_path / "a").read_bytes()
    reordered = dict(sorted(files.items(), reverse=True))
    assert tool.write_wheel(reordered, tmp_path / "b").read_bytes() == first


def run_tool(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_wrong_sdist_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    sdist = write_sdist(tmp_path / "x.tar.gz", SOURCES)
    done = run_tool("--build-only", str(tmp_path / "out"), "--sdist", str(sdist))
    assert done.returncode == 2
    assert re.match(r"error: x\.tar\.gz has the SHA-256 \w+, expected 5d2e9e51e523", done.stderr)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("out/*")) == []


def fake_installation(folder: Path, generator: str, engine: str = "") -> Path:
    package = folder / "detectron2"
    info = folder / "detectron2-9.9.dist-info"
    info.mkdir(parents=True)
    for name in ("engine", "evaluation", "model_zoo"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text(engine if name == "engine" else "")
    (package / "__init__.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 9.9\n")
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nGenerator: {generator}\n")
    (info / "top_level.txt").write_text("detectron2\n")
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            found[str(path)] = path.read_bytes()
    return found


def test_an_installed_detectron2_is_kept_untouched(tmp_path: Path) -> None:
    site = fake_installation(tmp_path / "site", "somebody else's build")
    before = snapshot(site)
    done = run_tool(path=site)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"detectron2: keeping detectron2 9.9 in {site / 'detectron2'}\n"
    assert snapshot(site) == before


def test_an_installed_detectron2_that_does_not_import_is_reported(tmp_path: Path) -> None:
    site = fake_installation(tmp_path / "site", "somebody else's build", "import no_such_module_x")
    done = run_tool(path=site)
    assert done.returncode == 2
    assert "does not import" in done.stderr
    assert "no_such_module_x" in done.stderr
    assert "pip uninstall" in done.stderr


def test_only_a_repack_by_an_older_version_is_replaced(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(TOOL.parent)!r}); import provide_detectron2 as p; "
    code += "print(p.find_installed())"
    found = {}
    for name, generator in {
        "older": f"{tool.GENERATOR} 0000000000000000",
        "current": f"{tool.GENERATOR} {tool.digest()}",
        "foreign": "bdist_wheel (0.37.1)",
    }.items():
        site = fake_installation(tmp_path / name, generator)
        command = [sys.executable, "-c", code]
        environment = os.environ | {"PYTHONPATH": str(site)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        found[name] = done.stdout.strip()
    assert found["older"] == "None"
    assert found["current"].startswith("detectron2 9.9 in ")
    assert found["foreign"].startswith("detectron2 9.9 in ")
