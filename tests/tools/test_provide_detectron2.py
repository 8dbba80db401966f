"""The repacking, on a small stand-in for the sdist; test_repacked_detectron2.py has the result."""

import base64
import email
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import tools.provide_detectron2 as tool

TOOL = Path(__file__).resolve().parents[2] / "tools" / "provide_detectron2.py"


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
def files(tmp_path):
    return tool.read_sdist(write_sdist(tmp_path / "x.tar.gz", SOURCES))


def test_read_sdist_takes_the_packages_and_nothing_else(files):
    assert files == {
        "LICENSE": b"the licence",
        "detectron2/__init__.py": b"__version__ = '0.6'\n",
        "detectron2/a.py": b"old old new\n",
        "detectron2/model_zoo/configs/x.yaml": b"MODEL: {}\n",
        "detectron2/projects/point_rend/__init__.py": b"point = 1\n",
    }


@pytest.mark.parametrize("absent", ["LICENSE", "detectron2/__init__.py"])
def test_read_sdist_refuses_another_archive(tmp_path, absent):
    sources = {name: text for name, text in SOURCES.items() if name != absent}
    with pytest.raises(tool.ProvideError, match="not a Detectron2 sdist"):
        tool.read_sdist(write_sdist(tmp_path / "x.tar.gz", sources))


def test_apply_changes_replaces_every_occurrence_and_adds_files(files):
    change = tool.Change("why", "old", "young", {"a.py": 2})
    tool.apply_changes(files, (change,), {"b.py": "b = 1\n"})
    assert files["detectron2/a.py"] == b"young young new\n"
    assert files["detectron2/b.py"] == b"b = 1\n"
    assert files["detectron2/__init__.py"] == SOURCES["detectron2/__init__.py"].encode()


@pytest.mark.parametrize(
    ("path", "old", "message"),
    [
        ("a.py", "gone", r"a\.py: expected 'gone' 1 time.* found it 0 time.*the reason"),
        ("a.py", "old", r"a\.py: expected 'old' 1 time.* found it 2 time.*the reason"),
        ("c.py", "old", r"detectron2/c\.py: to be changed, but not in the sdist.*the reason"),
    ],
)
def test_a_change_that_no_longer_applies_stops_the_tool(files, path, old, message):
    with pytest.raises(tool.ProvideError, match=message):
        tool.apply_changes(files, (tool.Change("the reason", old, "new", {path: 1}),), {})
    with pytest.raises(tool.ProvideError, match="in the sdist already"):
        tool.apply_changes(files, (), {"a.py": ""})


def test_checksum(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(b"abc")
    # SHA-256 of "abc", FIPS 180-2 appendix B.1
    right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    tool.verify_checksum(path, right)
    with pytest.raises(tool.ProvideError, match=f"{right}, expected {tool.SDIST_SHA256}"):
        tool.verify_checksum(path)


def test_the_wheel_lists_every_file_and_names_the_distribution(files, tmp_path):
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
    metadata = email.message_from_bytes(contents["detectron2-0.6.dist-info/METADATA"])
    assert (metadata["Name"], metadata["Version"]) == ("detectron2", "0.6")
    names = {re.split("[<>=]", text)[0] for text in metadata.get_all("Requires-Dist") or ()}
    assert {"torch", "fvcore", "iopath", "yacs", "pycocotools", "omegaconf"} <= names
    assert not names & {"black", "future", "pydot", "dataclasses"}


def test_wheel_bytes_depend_on_the_files_alone(files, tmp_path):
    first = tool.write_wheel(files, tmp_path).read_bytes()
    reordered = dict(sorted(files.items(), reverse=True))
    assert tool.write_wheel(reordered, tmp_path).read_bytes() == first


def test_wrong_sdist_is_refused_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    sdist = write_sdist(tmp_path / "x.tar.gz", SOURCES)
    words = ["provide", "--build-only", str(tmp_path / "out"), "--sdist", str(sdist)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="2"):
        tool.main()
    error = capsys.readouterr().err
    assert re.match(r"error: x\.tar\.gz has the SHA-256 \w+, expected 5d2e9e51e523", error)
    assert list(tmp_path.glob("out/*")) == []


# Installed versions, each seen by an interpreter of its own.


def run_tool(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{TOOL.parent}"}
    command = [sys.executable, *(words or (str(TOOL),))]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def fake_installation(folder: Path, generator: str, engine: str = "") -> Path:
    package = folder / "detectron2"
    info = folder / "detectron2-9.9.dist-info"
    info.mkdir(parents=True)
    for name in ("engine", "evaluation"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text(engine if name == "engine" else "")
    (package / "__init__.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 9.9\n")
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nGenerator: {generator}\n")
    (info / "top_level.txt").write_text("detectron2\n")
    return folder


def contents_of(folder: Path) -> dict[Path, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path: path.read_bytes() for path in found}


def test_an_installed_detectron2_is_kept_untouched(tmp_path):
    site = fake_installation(tmp_path / "site", "somebody else's build")
    before = contents_of(site)
    done = run_tool(site)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"detectron2: keeping detectron2 9.9 in {site / 'detectron2'}\n"
    assert contents_of(site) == before


@pytest.mark.full
def test_an_installed_detectron2_that_does_not_import_is_reported(tmp_path):
    site = fake_installation(tmp_path / "site", "somebody else's build", "import no_such_module_x")
    done = run_tool(site)
    assert done.returncode == 2
    assert "does not import" in done.stderr
    assert "no_such_module_x" in done.stderr


@pytest.mark.full
@pytest.mark.parametrize(
    ("generator", "kept"),
    [
        (f"{tool.GENERATOR} 0000000000000000", False),
        (f"{tool.GENERATOR} {tool.digest()}", True),
        ("bdist_wheel (0.37.1)", True),
    ],
)
def test_only_a_repack_by_an_older_version_is_replaced(tmp_path, generator, kept):
    site = fake_installation(tmp_path, generator)
    code = "import provide_detectron2 as p; print(p.find_installed())"
    done = run_tool(site, "-c", code)
    assert done.stdout.startswith("detectron2 9.9 in " if kept else "None")
