"""Checkpoints are verified before they are used, and the right ones are removed."""

import hashlib
import os
import subprocess

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import TrainerBase
from fvcore.common.checkpoint import Checkpointer

from mls_d2.run.checkpointer import AtomicCheckpointer, iteration_of
from mls_d2.run.hooks import PeriodicCheckpointer
from mls_d2.run.loop import FiniteLossGuard


class Loop(TrainerBase):
    def run_step(self):
        pass


def run_hook(hook, start, stop):
    loop = Loop()
    loop.register_hooks([hook])
    loop.train(start, stop)


@pytest.fixture
def saved(tmp_path):
    """A checkpointer with the iterations 1, 3 and 5 saved, in which all weights are that number."""
    model = torch.nn.Linear(64, 64)
    checkpointer = AtomicCheckpointer(model, str(tmp_path), metadata={"kind": "x"})
    assert checkpointer.resume() is None
    for iteration in (1, 3, 5):
        torch.nn.init.constant_(model.weight, iteration)
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    return checkpointer


def flip_a_weight(path):
    content = bytearray(path.read_bytes())
    where = content.index(torch.full((4,), 5.0).numpy().tobytes())
    content[where + 1] ^= 0x40
    path.write_bytes(content)


def test_the_checksum_is_that_of_the_file_and_sha256sum_reads_it(saved, tmp_path):
    sidecar = tmp_path / "model_0000005.pth.sha256"
    digest = hashlib.sha256((tmp_path / "model_0000005.pth").read_bytes()).hexdigest()
    assert sidecar.read_text() == f"{digest}  model_0000005.pth\n"
    subprocess.run(["sha256sum", "--check", "--strict", sidecar.name], cwd=tmp_path, check=True)


def test_a_file_with_a_flipped_bit_that_torch_does_not_notice_is_named_and_skipped(
    saved, tmp_path, caplog
):
    flip_a_weight(tmp_path / "model_0000005.pth")
    # The reason for a checksum: torch loads the wrong number.
    weight = torch.load(tmp_path / "model_0000005.pth", weights_only=True)["model"]["weight"]
    assert weight.flatten()[0] != 5
    with caplog.at_level("WARNING", "mls_d2.run.checkpointer"):
        assert saved.resume()["iteration"] == 3
    assert (saved.model.weight == 3).all()
    assert "model_0000005.pth' is damaged or truncated (sha256" in caplog.text


def test_a_file_without_a_checksum_loads(saved, tmp_path):
    (tmp_path / "model_0000005.pth.sha256").unlink()
    rest = saved.resume()
    assert (rest["iteration"], rest["metadata"]) == (5, {"kind": "x"})
    assert (saved.model.weight == 5).all()


def test_a_model_that_is_not_finite_is_not_saved(saved, tmp_path, refuses):
    saved.model.weight.data[3, 4] = float("inf")
    with refuses("not-finite", "(weight)"):
        saved.save("model_0000007", iteration=7)
    assert saved.resume()["iteration"] == 5


def test_times_of_files_do_not_decide_which_checkpoint_is_the_newest(saved, tmp_path):
    (tmp_path / "last_checkpoint").unlink()
    for path in tmp_path.glob("*.pth"):
        os.utime(path, (0, -iteration_of(path.name)))
    assert saved.resume()["iteration"] == 5


def load_of_main(self, path, *args, **kwargs):
    """Detectron2's load on its main branch (02b5c4e), in what matters."""
    assert getattr(self, "_parsed_url_during_load", None) is None
    self._parsed_url_during_load = path
    rest = Checkpointer.load(self, path.partition("?")[0], *args, **kwargs)
    self._parsed_url_during_load = None
    return rest


def test_a_damaged_file_and_a_question_mark_are_no_problem_with_detectron2s_main_branch(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(DetectionCheckpointer, "load", load_of_main)
    folder = tmp_path / "lr?0.1"
    folder.mkdir()
    checkpointer = AtomicCheckpointer(torch.nn.Linear(2, 2), str(folder))
    for iteration in (1, 3):
        torch.nn.init.constant_(checkpointer.model.weight, iteration)
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    (folder / "model_0000003.pth").write_bytes(b"")
    assert checkpointer.resume()["iteration"] == 1
    assert (checkpointer.model.weight == 1).all()
    assert checkpointer.resume()["iteration"] == 1


def test_no_intact_file_is_an_error(saved, tmp_path, refuses):
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(path.read_bytes()[:-100])
    with refuses("damaged-file", "none of the 3 checkpoints"):
        saved.resume()


def test_a_kill_between_file_and_checksum_leaves_no_wrong_one(saved, tmp_path, monkeypatch):
    def killed(path):
        raise SystemExit

    monkeypatch.setattr("mls_d2.run.checkpointer.sha256_of", killed)
    torch.nn.init.zeros_(saved.model.weight)
    with pytest.raises(SystemExit):
        saved.save("model_0000005", iteration=5)
    monkeypatch.undo()
    assert saved.resume()["iteration"] == 5
    assert (saved.model.weight == 0).all()


def names(folder):
    return sorted(path.name for path in folder.glob("model_*"))


def with_sums(*stems):
    return sorted(f"model_{stem}.pth{end}" for stem in stems for end in ("", ".sha256"))


def test_what_an_earlier_process_left_is_removed_too_with_its_checksums(saved, tmp_path):
    hook = PeriodicCheckpointer(saved, 2, guard=FiniteLossGuard(), max_to_keep=2)
    run_hook(hook, 6, 9)
    assert names(tmp_path) == with_sums("0000005", "0000007", "final")


def test_permanent_checkpoints_stay_whatever_the_period(saved, tmp_path):
    hook = PeriodicCheckpointer(
        saved, 2, guard=FiniteLossGuard(), max_to_keep=1, permanent_period=3
    )
    run_hook(hook, 6, 15)
    kept = ("0000005", "0000008", "0000011", "0000013", "0000014", "final")
    assert names(tmp_path) == with_sums(*kept)


def test_a_damaged_newer_file_does_not_take_the_place_of_an_intact_one(saved, tmp_path):
    (tmp_path / "model_0000005.pth").write_bytes(b"")
    assert saved.resume()["iteration"] == 3
    saved.save("model_0000004", iteration=4)
    saved.prune(4, keep=1)
    assert names(tmp_path) == with_sums("0000004", "0000005")
    assert saved.resume()["iteration"] == 4
