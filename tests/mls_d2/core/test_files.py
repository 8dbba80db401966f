"""Files appear complete or not at all."""

import errno
import json
import os

import pytest
import torch

from mls_d2.core.errors import UserError
from mls_d2.core.files import atomic_write, check_writable, trim_metrics, write_json


def test_a_finished_write_has_all_its_bytes_and_nothing_else_stays(tmp_path):
    write_json(str(tmp_path / "a.json"), {"x": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2]}
    assert os.listdir(tmp_path) == ["a.json"]


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


def test_permissions_are_those_of_open(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_json(str(tmp_path / "atomic"), {})
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_during_torch_save_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tempfile.mkstemp",
        lambda **_: (os.open("/dev/full", os.O_WRONLY), str(tmp_path / "temporary")),
    )
    path = tmp_path / "a.pth"

    def save():
        with atomic_write(str(path)) as file:
            torch.save({"x": torch.zeros(100_000)}, file)

    with pytest.raises(UserError, match="cannot write to .*a.pth.*No space left"):
        save()
    assert os.listdir(tmp_path) == []


def test_check_writable_creates_the_folder_and_removes_leftovers(tmp_path):
    folder = tmp_path / "a" / "b"
    check_writable(str(folder))
    (folder / ".tmp-model.pth-x").write_text("half")
    check_writable(str(folder))
    assert os.listdir(folder) == []


def test_check_writable_names_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*file.*choose another folder"):
        check_writable(str(tmp_path / "file" / "run"))


def test_check_writable_notices_a_full_disk(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        check_writable(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_trim_metrics_drops_what_will_be_written_again(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 19}\n{"iteration": 39}\n{"iteration": 59}\n{"iterat')
    trim_metrics(str(path), 40)
    assert path.read_text() == '{"iteration": 19}\n{"iteration": 39}\n'


def test_trim_metrics_accepts_a_missing_file(tmp_path):
    trim_metrics(str(tmp_path / "none.json"), 3)
    assert os.listdir(tmp_path) == []
