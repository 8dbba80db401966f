"""Runs that cannot begin, or fail on the way: what they report, and what they leave."""

import errno
import multiprocessing
import os

import pytest
import torch

from pretrain import run as run_module
from pretrain.run import pretrain
from tests.pretrain.test_run import assert_equal_weights


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_fills_during_logging_is_a_user_error(config, refuses):
    cfg = config()
    os.makedirs(cfg.OUTPUT_DIR)
    os.symlink("/dev/full", os.path.join(cfg.OUTPUT_DIR, "metrics.json"))
    with refuses("no-space", "No space left on device", "--resume"):
        pretrain(cfg)


def test_a_disk_that_is_full_at_a_checkpoint_loses_nothing_before_it(config, monkeypatch, refuses):
    whole = pretrain(config("whole"))
    calls, save = iter(range(100)), torch.save

    def full(*arguments):
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with refuses("no-space", "model_0000003.pth", "free space"):
            pretrain(config("full"))
    left = os.listdir(config("full").OUTPUT_DIR)
    assert [name for name in left if name.endswith(".pth")] == ["model_0000001.pth"]
    assert_equal_weights(whole, pretrain(config("full"), resume=True))


def test_a_worker_that_is_killed_is_a_user_error(config, monkeypatch, refuses):
    class Robbed(run_module.PretrainTrainer):
        def run_step(self):
            for child in multiprocessing.active_children():
                child.kill()
                child.join()
            super().run_step()

    monkeypatch.setattr(run_module, "PretrainTrainer", Robbed)
    with refuses("lost-worker", "DATALOADER.NUM_WORKERS"):
        pretrain(config(DATALOADER__NUM_WORKERS="1", PRETRAIN__EPOCHS="20.0"))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    config, monkeypatch, refuses
):
    class Exploding(run_module.PretrainTrainer):
        def run_step(self):
            if self.iter == 2:
                with torch.no_grad():
                    self.method.encoder.projector[0].weight.fill_(float("nan"))
            super().run_step()

    monkeypatch.setattr(run_module, "PretrainTrainer", Exploding)
    cfg = config()
    with refuses("not-finite", "loss_nce = nan"):
        pretrain(cfg)
    saved = [name for name in os.listdir(cfg.OUTPUT_DIR) if name.endswith(".pth")]
    assert saved == ["model_0000001.pth"]
    model = torch.load(os.path.join(cfg.OUTPUT_DIR, saved[0]), weights_only=True)["model"]
    assert all(torch.isfinite(v).all() for v in model.values() if v.is_floating_point())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MLS.K", "16"),
        ("MOCO.DICTIONARY_SIZE", "2"),
        ("PRETRAIN.AUGMENT.CROP_SCALE", "(0.5, 0.2)"),
        ("PRETRAIN.AUGMENT.VIEW2.BLUR_PROB", "1.5"),
        ("INPUT.FORMAT", "BGR"),
        ("SOLVER.IMS_PER_BATCH", "16"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_written(config, refuses, key, value):
    cfg = config(**{key.replace(".", "__"): value})
    with refuses("bad-value", key):
        pretrain(cfg)
    assert not os.path.exists(cfg.OUTPUT_DIR)


def test_a_damaged_marker_of_scenes_is_found_before_the_run(config, images, refuses):
    (images / "scenes.json").write_text('{"format": 0}')
    with refuses("other-version", "scenes.json"):
        pretrain(config())
    assert not os.path.exists(config().OUTPUT_DIR)
