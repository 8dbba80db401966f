"""Files appear complete or not at all, and tools end with one line on any terminal."""

import errno
import io
import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mls_d2.core.errors import EXIT_USER_ERROR, UserError, exit_code_of
from mls_d2.core.files import (
    atomic_write,
    check_writable,
    trim_metrics,
    write_bytes,
    write_image,
    write_json,
)


def test_a_finished_write_is_complete_with_the_permissions_of_open(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_json(str(tmp_path / "a.json"), {"x": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2]}
    assert sorted(os.listdir(tmp_path)) == ["a.json", "plain"]
    assert (tmp_path / "plain").stat().st_mode == (tmp_path / "a.json").stat().st_mode


def test_the_longest_names_are_written(tmp_path):
    write_json(str(tmp_path / ("x" * 255)), 1)
    assert os.listdir(tmp_path) == ["x" * 255]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way():
        with atomic_write(str(path), "w") as file:
            file.write("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.fixture
def largest_file():
    """Limit the size of files that this process writes: a disk that is full at any byte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save(path, content):
    with atomic_write(str(path)) as file:
        torch.save(content, file)


def test_a_disk_that_is_full_at_any_byte_of_a_checkpoint_is_refused(
    tmp_path, largest_file, refuses
):
    content = {"x": torch.zeros(30_000), "y": torch.ones(5)}
    path = tmp_path / "a.pth"
    save(path, content)
    size = path.stat().st_size
    path.unlink()
    for limit in (0, 1, 100, 4096, 65_536, 120_000, size - 500, size - 100, size - 1):
        largest_file(limit)
        with refuses("no-space", os.strerror(errno.EFBIG)):
            save(path, content)
        assert os.listdir(tmp_path) == []
    largest_file(size)
    save(path, content)


def test_other_errors_of_torch_stay_as_they_are(tmp_path):
    def fail():
        with atomic_write(str(tmp_path / "a")):
            torch.ones(2, 3) @ torch.ones(2, 3)

    with pytest.raises(RuntimeError, match="shapes"):
        fail()


def test_check_writable_creates_the_folder_and_removes_leftovers(tmp_path, monkeypatch, refuses):
    folder = tmp_path / "a" / "b"
    check_writable(str(folder))
    (folder / ".tmp-model.pth-x").write_text("half")
    check_writable(str(folder))
    assert os.listdir(folder) == []
    (tmp_path / "file").write_text("")
    with refuses("unwritable"):
        check_writable(str(tmp_path / "file" / "run"))
    with refuses("unwritable", "it is a file, expected a folder; choose another folder"):
        check_writable(str(tmp_path / "file"))

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refuses("no-space"):
        check_writable(str(folder))
    assert os.listdir(folder) == []


def test_only_what_cannot_be_made_again_waits_for_the_disk(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(os, "fsync", waited.append)
    write_image(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    assert not waited
    write_bytes(tmp_path / "b", b"x")
    assert len(waited) == 1


def test_trim_metrics_removes_what_will_be_written_again(tmp_path):
    path = tmp_path / "metrics.json"
    trim_metrics(str(path), 3)
    assert os.listdir(tmp_path) == []
    path.write_text('{"iteration": 19}\n{"iteration": 39}\n{"iteration": 59}\n{"iterat')
    trim_metrics(str(path), 40)
    assert path.read_text() == '{"iteration": 19}\n{"iteration": 39}\n'


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode_gets_question_marks(monkeypatch, encoding):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])

    def main():
        sys.stdout.write("128… pixels\n")
        raise UserError("no file '…'", code="missing-file")

    assert exit_code_of(main) == EXIT_USER_ERROR
    lines = ("128? pixels", "error: no file '?' [missing-file]")
    for stream, expected in zip(streams, lines, strict=True):
        stream.flush()
        assert stream.buffer.getvalue().decode().strip() == expected


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(errno.ENOENT, "None", "a.json"), "error: 'a.json': None [file-error]"),
        (OSError(errno.EIO, "Bad", b"a.json"), "error: 'a.json': Bad [file-error]"),
        (OSError(errno.ENOSPC, "Full"), "error: Full [file-error]"),
        (MemoryError(), "error: out of memory [out-of-memory]"),
        (
            UnicodeEncodeError(sys.getfilesystemencoding(), "a\udcc3", 1, 2, "surrogates"),
            "error: the name 'a\\udcc3' is not valid UTF-8; rename it [bad-locale]",
        ),
    ],
)
def test_an_error_of_the_system_is_one_line(monkeypatch, error, line):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert exit_code_of(lambda: raise_(error)) == EXIT_USER_ERROR
    streams[1].flush()
    assert streams[1].buffer.getvalue().decode() == f"{line}\n"


@pytest.mark.parametrize(
    "error",
    [
        OSError("no file in sight"),
        OSError(errno.EBADF, "Bad file descriptor"),
        BrokenPipeError(errno.EPIPE, "of a worker"),
        UnicodeEncodeError("cp437", "a", 0, 1, "x"),
    ],
)
def test_other_errors_are_bugs(error):
    with pytest.raises(type(error)):
        exit_code_of(lambda: raise_(error))


def raise_(error):
    raise error


def test_a_reader_that_leaves_is_no_error():
    code = "from mls_d2.core.errors import run_tool; run_tool(lambda: print('x' * 10**6))"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", EXIT_USER_ERROR)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    code = "from mls_d2.core.errors import run_tool; run_tool(lambda: print('x'))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == EXIT_USER_ERROR
    assert done.stderr == f"error: {os.strerror(errno.ENOSPC)} [file-error]\n"


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_one_channel_is_written_as_it_is(tmp_path, kind):
    pixels = np.arange(12, dtype=kind).reshape(3, 4) * 17
    write_image(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), pixels)


def test_colours_are_written_as_rgb(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0] = 200
    for name in ("a.png", "a.jpg"):
        write_image(tmp_path / name, pixels)
        assert np.abs(np.array(Image.open(tmp_path / name)).astype(int) - pixels).max() <= 3
