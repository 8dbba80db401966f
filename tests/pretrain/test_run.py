"""Whole runs on a tiny network: what they write, how they resume, what they refuse."""

import json
import math
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mls_d2.checkpoint.backbone_file import pretraining_info, read_backbone
from mls_d2.convert.convert import load_backbone
from mls_d2.core.files import sha256_of
from mls_d2.run.environment import command_line
from pretrain import discovery
from pretrain import run as run_module
from pretrain.methods import build_method
from pretrain.run import pretrain, run_length

BYOL = {
    "PRETRAIN__METHOD": "byol",
    "PRETRAIN__BATCH_NORM": "sync",
    "MOCO__MOMENTUM": "0.5",
    "MOCO__MOMENTUM_SCHEDULE": "cosine",
    "BYOL__HIDDEN_DIM": "16",
}
LOCAL = {"PRETRAIN__AUGMENT__LOCAL_CROPS": "1", "PRETRAIN__AUGMENT__LOCAL_SIZE": "32"}
# Interrupted before the queue is full, and before prototypes learn.
SWAV = LOCAL | {
    "PRETRAIN__METHOD": "swav",
    "PRETRAIN__BATCH_NORM": "sync",
    "PRETRAIN__OPTIMIZER": "larc",
    "PRETRAIN__EPOCHS": "3.0",
    "SWAV__NUM_PROTOTYPES": "8",
    "SWAV__QUEUE_SIZE": "8",
    "SWAV__QUEUE_START": "1.0",
    "SWAV__FREEZE_STEPS": "4",
    "SWAV__PROJECTOR_HIDDEN_DIM": "16",
}
DINO = LOCAL | {
    "PRETRAIN__METHOD": "dino",
    "PRETRAIN__BATCH_NORM": "sync",
    "DINO__NUM_PROTOTYPES": "8",
    "DINO__HIDDEN_DIM": "16",
}
# The fixture of proposals fills in their file.
SOCO = LOCAL | {
    "PRETRAIN__METHOD": "soco",
    "PRETRAIN__BATCH_NORM": "sync",
    "PRETRAIN__PROPOSALS": "",
    "MODEL__RESNETS__OUT_FEATURES": "['res2', 'res3', 'res4', 'res5']",
    "SOCO__DIM": "8",
    "SOCO__HEAD_CONVS": "1",
    "SOCO__CONV_DIM": "8",
    "SOCO__FC_DIM": "16",
    "SOCO__HIDDEN_DIM": "16",
    "SOCO__OUT_DIM": "8",
}


ORL = BYOL | {
    "PRETRAIN__METHOD": "orl",
    "PRETRAIN__PROPOSALS": "",
    "PRETRAIN__AUGMENT__LOCAL_CROPS": "4",
    "PRETRAIN__AUGMENT__LOCAL_SIZE": "32",
    "ORL__FIRST_EPOCHS": "1.0",
    "ORL__NEIGHBOURS": "2",
    "ORL__MIN_SIDE": "32",
}


def weights(path: str) -> dict[str, torch.Tensor]:
    return read_backbone(path).state_dict


def assert_equal_weights(one: str, other: str) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("changes", [{}, BYOL], ids=["mls", "byol"])
def test_a_run_writes_the_encoder_with_its_metadata(config, changes, tmp_path, monkeypatch):
    cfg = config(**changes)
    told = tmp_path / "told"
    monkeypatch.setenv("MLS_D2_NOTIFY", f'echo "$RUN_TASK $RUN_METHOD $RUN_FILE" > {told}')
    file = read_backbone(path := pretrain(cfg))
    assert told.read_text() == f"pretraining {cfg.PRETRAIN.METHOD} {path}\n"
    card = Path(path).with_name("README.md").read_text()
    assert "license: unknown\n" in card
    for fact in (
        f"`{cfg.PRETRAIN.METHOD}`",
        f"| sha256 | {sha256_of(path)} |",
        "| cost | 4 steps, ",
    ):
        assert fact in card
    names = set(build_method(cfg).export())
    assert set(file.state_dict) == {n for n in names if not n.endswith("num_batches_tracked")}
    assert all(value.dtype == torch.float32 for value in file.state_dict.values())
    info = file.info
    assert (info["method"], info["iterations"], info["epochs"]) == (cfg.PRETRAIN.METHOD, 4, 2.0)
    assert (info["seed"], info["input_format"], info["synthetic"]) == (1, "RGB", False)
    newest = torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)["model"]
    online = newest["encoder.backbone.stem.conv1.weight"]
    torch.testing.assert_close(file.state_dict["stem.conv1.weight"], online)
    assert not torch.equal(online, newest["momentum_encoder.backbone.stem.conv1.weight"])
    # tools/convert.py makes the same of a checkpoint.
    found = load_backbone(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), check=False)
    for name, value in file.state_dict.items():
        assert torch.equal(found.state_dict[name], value), name
    kept = ("method", "dataset", "epochs", "synthetic", "config", "preset")
    assert {key: found.info[key] for key in kept} == {key: info[key] for key in kept}


def rows_of(cfg) -> list[dict]:
    with open(os.path.join(cfg.OUTPUT_DIR, "metrics.json")) as file:
        return [json.loads(line) for line in file]


def test_the_metrics_hold_every_monitor_and_the_raw_losses(config):
    cfg = config()
    pretrain(cfg)
    rows = rows_of(cfg)
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    expected = {"total_loss", "loss_nce", "loss_ml", "nce_accuracy", "lr", "positive_similarity"}
    expected |= {"negative_similarity", "label_similarity", "label_spread", "feature_std"}
    expected |= {"dictionary_rank", "images_per_s", "data_time", "peak_memory_mb"}
    for row in rows:
        assert expected <= row.keys()
        weighted = row["loss_nce"] + cfg.MLS.LAMBDA * row["loss_ml"]
        assert row["total_loss"] == pytest.approx(weighted, abs=1e-5)


def test_the_momentum_follows_its_schedule_to_the_end(config):
    cfg = config(**BYOL)
    pretrain(cfg)
    expected = [1 - 0.5 * (math.cos(math.pi * step / 4) + 1) / 2 for step in range(4)]
    assert [row["momentum"] for row in rows_of(cfg)] == pytest.approx(expected)


@pytest.mark.parametrize(
    "changes",
    [
        LOCAL,
        BYOL,
        SWAV,
        DINO,
        SOCO,
        {
            "SOLVER__AMP__ENABLED": "True",
            "PRETRAIN__AMP_DTYPE": "float16",
            "PRETRAIN__EPOCHS": "7.0",  # the scale begins too high
        },
    ],
    ids=["local crops", "byol", "swav", "dino", "soco", "scaled gradients"],
)
def test_an_interrupted_run_ends_as_one_that_was_not(config, monkeypatch, proposals, changes):
    if "PRETRAIN__PROPOSALS" in changes:
        changes = changes | {"PRETRAIN__PROPOSALS": proposals}

    class Drawing(run_module.PretrainTrainer):
        stop = -1

        def run_step(self):
            if self.iter == self.stop:
                raise KeyboardInterrupt
            super().run_step()
            drawn = torch.rand(()) + random.random() + np.random.rand()
            with torch.no_grad():
                self.method.encoder.backbone.stem.conv1.weight.add_(1e-3 * drawn)

    monkeypatch.setattr(run_module, "PretrainTrainer", Drawing)
    whole = pretrain(config("whole", **changes))
    monkeypatch.setattr(Drawing, "stop", 3)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config("cut", **changes))
    assert not os.path.exists(os.path.join(config("cut").OUTPUT_DIR, "backbone.pth"))
    monkeypatch.setattr(Drawing, "stop", -1)
    assert_equal_weights(whole, pretrain(config("cut", **changes), resume=True))
    if "SOLVER__AMP__ENABLED" in changes:
        path = os.path.join(config("cut").OUTPUT_DIR, "model_final.pth")
        scaler = torch.load(path, weights_only=True)["grad_scaler"]
        assert 1 < scaler["scale"] < 65536  # lowered until nothing overflowed


def test_a_checkpoint_of_a_second_stage_has_all_epochs_of_the_first(config):
    metadata = run_module._checkpoint_metadata(
        config(**ORL), run_module.Length(2, 4), synthetic=True
    )
    for iteration, epochs in ((0, 1.5), (3, 3.0)):
        info = pretraining_info({"metadata": metadata, "iteration": iteration})
        assert (info["epochs"], info["iterations"]) == (epochs, iteration + 1)
        assert (info["method"], info["synthetic"]) == ("orl", True)


@pytest.mark.full
def test_a_run_of_two_stages_is_resumed_in_each_of_them(config, monkeypatch, proposals, refuses):
    changes = ORL | {"PRETRAIN__PROPOSALS": proposals}
    whole = pretrain(config("whole", **changes))
    info = read_backbone(whole).info
    assert (info["method"], info["epochs"], info["iterations"]) == ("orl", 3.0, 4)
    assert {"loss_image", "loss_intra", "loss_inter"} <= rows_of(config("whole"))[-1].keys()

    class Stopping(run_module.PretrainTrainer):
        at = ("byol", 1)

        def run_step(self):
            name = type(self.method).__name__.lower()
            if (name, self.iter) == self.at:
                raise KeyboardInterrupt
            super().run_step()

    monkeypatch.setattr(run_module, "PretrainTrainer", Stopping)
    save = discovery._save

    def failing(partial, name, first, array) -> None:
        if Stopping.at == (name, first):
            raise KeyboardInterrupt
        save(partial, name, first, array)

    monkeypatch.setattr(discovery, "_save", failing)
    for at in (("byol", 1), ("pairs", 0), ("orl", 3)):
        monkeypatch.setattr(Stopping, "at", at)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config("cut", **changes), resume=True)
        assert not os.path.exists(os.path.join(config("cut").OUTPUT_DIR, "backbone.pth"))
    monkeypatch.setattr(Stopping, "at", None)
    assert_equal_weights(whole, pretrain(config("cut", **changes), resume=True))
    one, other = (Path(config(name).OUTPUT_DIR, "correspondences") for name in ("whole", "cut"))
    assert one.read_bytes() == other.read_bytes()
    # A first stage of other images is refused.
    os.unlink(whole)
    source = Path(config("whole").OUTPUT_DIR, "first_stage", "environment.json")
    source.write_text(source.read_text().replace('DATASETS.TRAIN": "', 'DATASETS.TRAIN": "0'))
    with refuses("changed-run", "first_stage"):
        pretrain(config("whole", **changes), resume=True)


def test_after_a_kill_before_the_last_file_only_that_is_written(config, monkeypatch):
    path = pretrain(config(SEED="-1"))
    before, seed = weights(path), read_backbone(path).info["seed"]
    assert seed >= 0
    os.unlink(path)
    monkeypatch.setattr(run_module.PretrainTrainer, "run_step", None)
    # Settings that change no weights may change; a drawn seed is kept.
    changes = {"PRETRAIN__MAX_BROKEN_SHARE": "0.5", "PRETRAIN__LOG_PERIOD": "2"}
    again = pretrain(config(SEED="-1", **changes), resume=True)
    assert all(torch.equal(value, before[name]) for name, value in weights(again).items())
    assert read_backbone(again).info["seed"] == seed
    with open(os.path.join(os.path.dirname(path), "environment.json")) as file:
        stored = json.load(file)
    assert [then["versions"] for then in stored["earlier"]] == [stored["versions"]]
    # Finished: nothing is done.
    stamp = os.stat(again).st_mtime_ns
    monkeypatch.setattr(run_module, "build_loader", None)
    assert pretrain(config(SEED="-1"), resume=True) == path
    assert os.stat(path).st_mtime_ns == stamp


def test_a_run_is_not_resumed_with_other_images_or_another_config(config, images, refuses):
    os.unlink(pretrain(config()))
    with refuses("changed-run", "MLS.K: was 3, is 4"):
        pretrain(config(MLS__K="4"), resume=True)
    shutil.copy(images / "0.png", images / "9.png")
    with refuses("changed-run", "DATASETS.TRAIN"):
        pretrain(config(), resume=True)


def test_a_run_with_proposals_logs_its_objects_and_writes_fpn_and_box_head(config, proposals):
    cfg = config(**(SOCO | {"PRETRAIN__PROPOSALS": proposals}))
    names = weights(pretrain(cfg))
    assert "backbone.fpn_output5.norm.running_var" in names
    assert "roi_heads.box_head.fc1.weight" in names
    rows = rows_of(cfg)
    # Three of the nine images have no proposals, and the others two.
    assert 0 < np.mean([row["whole_images"] for row in rows]) < 1
    assert all(row["unmatched_images"] == 0 for row in rows)
    assert all(1 <= row["objects"] <= 2 for row in rows)


def test_a_run_of_an_earlier_version_is_not_resumed(config, refuses):
    os.unlink(pretrain(config()))
    path = os.path.join(config().OUTPUT_DIR, "model_final.pth")
    content = torch.load(path, weights_only=True)
    del content["metadata"]["layout"]
    torch.save(content, path)
    os.unlink(f"{path}.sha256")
    with refuses("old-checkpoint", "tools/convert.py"):
        pretrain(config(), resume=True)


def test_a_backbone_that_cannot_be_exported_is_refused_before_the_first_step(config, refuses):
    changes = {"MODEL__BACKBONE__NAME": "build_resnet_fpn_backbone"}
    changes |= {"MODEL__FPN__IN_FEATURES": "['res5']", "MODEL__RESNETS__OUT_FEATURES": "['res5']"}
    with refuses("bad-value", "build_resnet_backbone"):
        pretrain(config(**changes))


def test_config_and_environment_are_on_disk_before_the_first_step(config, monkeypatch):
    seen = {}

    class Looking(run_module.PretrainTrainer):
        def run_step(self):
            folder = config().OUTPUT_DIR
            for name in ("config.yaml", "environment.json"):
                with open(os.path.join(folder, name)) as file:
                    seen[name] = file.read()
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "PretrainTrainer", Looking)
    changes = {"SOLVER__REFERENCE_WORLD_SIZE": "2", "SOLVER__IMS_PER_BATCH": "8"}
    with pytest.raises(KeyboardInterrupt):
        pretrain(config(**changes))
    assert "SEED: 1\n" in seen["config.yaml"]
    assert "IMS_PER_BATCH: 4\n" in seen["config.yaml"]
    stored = json.loads(seen["environment.json"])
    assert {"python", "torch", "detectron2", "git_revision", "git_dirty"} <= set(stored["versions"])
    assert stored["command"] == command_line()
    assert (stored["num_images"], stored["max_iter"]) == (9, 4)
    assert (stored["task"], stored["method"], stored["synthetic"]) == ("pretraining", "mls", False)
    # Half as many processes as the config is for: half the batch and half the rate.
    assert stored["scaled"] == [
        "SOLVER.BASE_LR: was 0.05, is 0.025",
        "SOLVER.CHECKPOINT_PERIOD: was 2, is 4",
        "SOLVER.IMS_PER_BATCH: was 8, is 4",
        "SOLVER.REFERENCE_WORLD_SIZE: was 2, is 1",
    ]


def test_both_encoders_are_compiled_if_that_is_asked_for(config, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    pretrain(config("compiled", PRETRAIN__COMPILE="True"))
    assert [type(module).__name__ for module in compiled] == ["ResNet", "ResNet"]
    assert compiled[0] is not compiled[1]


def test_the_length_is_in_whole_batches(config):
    length = run_length(config(), 9)
    assert (length.iters_per_epoch, length.max_iter) == (2, 4)
    assert run_length(config(PRETRAIN__EPOCHS="0.6"), 9).max_iter == 1
