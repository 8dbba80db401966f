"""What `make release` refuses before it builds anything."""

import shutil
import subprocess

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Return a function that releases a commit of these files; Python is a stub that fails."""
    clone = tmp_path / "clone"
    for name in (".ci", "mls_d2"):
        (clone / name).mkdir(parents=True)
    shutil.copy(REPOSITORY / ".ci/release", clone / ".ci")
    (clone / "mls_d2/__init__.py").write_text('__version__ = "1.2.3"\n')
    (clone / "CHANGELOG.md").write_text("## 1.2.3\n\n- All.\n")
    stub = tmp_path / "python"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit 9\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(stub))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@b")

    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=clone, check=True, capture_output=True)

    def run(tag: str = "", left: str = "", **files: str) -> tuple[int, str, bool]:
        for name, text in files.items():
            (clone / f"{name}.md").write_text(text)
        git("init", "-q")
        git("add", ".")
        git("commit", "-qm", "x")
        if tag:
            git("tag", tag)
        if left:
            (clone / left).touch()
        command = ["bash", str(clone / ".ci/release")]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stderr, (tmp_path / "calls").exists()

    return run


@pytest.mark.parametrize("tag", ["", "v1.2.3"])
def test_a_complete_commit_is_built(release, tag):
    code, _, built = release(tag)
    assert (code, built) == (9, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"left": "new.py"}, "?? new.py"),
        ({"CHANGELOG": "## 1.2.30\n"}, "no '## 1.2.3'"),
        ({"tag": "v1.2.4"}, "tag v1.2.4 and the version 1.2.3"),
        ({"tag": "v1.2.3", "CHANGELOG": "## Unreleased\n\n## 1.2.3\n"}, "has '## Unreleased'"),
    ],
)
def test_anything_else_is_refused_first(release, given, message):
    code, error, built = release(**given)
    assert (code, built) == (2, False)
    assert message in error
