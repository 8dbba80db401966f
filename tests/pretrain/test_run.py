"""Whole runs on a tiny network: what they write, how they resume, what they refuse."""

import errno
import json
import math
import multiprocessing
import os
import random
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from mls_d2.checkpoint.backbone_file import read_backbone
from mls_d2.config.loading import load_cfg
from mls_d2.convert.convert import load_backbone
from mls_d2.core.errors import UserError
from mls_d2.run.environment import command_line
from pretrain import run as run_module
from pretrain.methods import METHODS, MomentumMethod, build_method, check_method_config
from pretrain.optim import build_optimizer
from pretrain.run import check_config, pretrain, run_length

# Heads of the methods that have more than MoCo's.
NARROW = {
    "BYOL__HIDDEN_DIM": "16",
    "SIMSIAM__PROJECTOR_DIM": "16",
    "SIMCLR__PROJECTOR_HIDDEN_DIM": "16",
    "BARLOWTWINS__PROJECTOR_DIM": "16",
    "REVISITING__K": "3",
}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(9):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def config(images, tiny, tmp_path, request):
    root = request.config.rootpath

    def make(output: str = "run", **changes: str):
        values = tiny | {"OUTPUT_DIR": str(tmp_path / output)}
        values |= {"DATASETS.TRAIN": f"('{images}',)"}
        values |= {key.replace("__", "."): value for key, value in changes.items()}
        words = [word for pair in values.items() for word in pair]
        return load_cfg(str(root / "pretrain/configs/mocov2_coco_400ep.yaml"), words)

    return make


def weights(path: str) -> dict[str, torch.Tensor]:
    return read_backbone(path).state_dict


def assert_equal_weights(one: str, other: str) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_a_run_writes_the_online_backbone_with_what_belongs_to_it(config, method):
    cfg = config(PRETRAIN__METHOD=method, PRETRAIN__BATCH_NORM="sync", **NARROW)
    path = pretrain(cfg)
    file = read_backbone(path)
    names = set(build_method(cfg).online_encoder.backbone.state_dict())
    assert set(file.state_dict) == {n for n in names if not n.endswith("num_batches_tracked")}
    assert all(value.dtype == torch.float32 for value in file.state_dict.values())
    info = file.info
    assert (info["method"], info["iterations"], info["epochs"]) == (method, 4, 2.0)
    assert (info["seed"], info["input_format"], info["synthetic"]) == (1, "RGB", False)
    newest = torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)["model"]
    momentum = issubclass(METHODS[method], MomentumMethod)
    online = newest[f"{'pair' if momentum else 'encoder'}.backbone.stem.conv1.weight"]
    torch.testing.assert_close(file.state_dict["stem.conv1.weight"], online)
    if momentum:
        assert not torch.equal(online, newest["pair.momentum_backbone.stem.conv1.weight"])
    # A checkpoint of the run is as good as the file: tools/convert.py takes the same encoder of it.
    found = load_backbone(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), check=False)
    assert found.info["source"] == ("mls_d2" if momentum else "mls_d2-single")
    for name, value in file.state_dict.items():
        assert torch.equal(found.state_dict[name], value), name


def test_local_crops_are_queries_of_a_whole_run(config):
    changes = {"PRETRAIN__METHOD": "revisiting", "REVISITING__K": "3"}
    plain = pretrain(config("plain", **changes))
    local = changes | {"PRETRAIN__AUGMENT__LOCAL_CROPS": "2", "PRETRAIN__AUGMENT__LOCAL_SIZE": "32"}
    name = "res5.2.conv3.weight"
    assert not torch.equal(weights(pretrain(config("local", **local)))[name], weights(plain)[name])


def test_the_target_of_byol_follows_the_schedule_to_the_end(config):
    changes = {"PRETRAIN__METHOD": "byol", "MOCO__MOMENTUM_SCHEDULE": "cosine"}
    cfg = config(MOCO__MOMENTUM="0.5", **changes, **NARROW)
    pretrain(cfg)
    with open(os.path.join(cfg.OUTPUT_DIR, "metrics.json")) as file:
        rows = [json.loads(line) for line in file]
    expected = [1 - 0.5 * (math.cos(math.pi * step / 4) + 1) / 2 for step in range(4)]
    assert [row["momentum"] for row in rows] == pytest.approx(expected)
    assert {"loss_byol", "feature_std", "embedding_std"} <= rows[0].keys()
    assert "dictionary_rank" not in rows[0]


def test_the_metrics_hold_every_monitor(config):
    cfg = config()
    pretrain(cfg)
    with open(os.path.join(cfg.OUTPUT_DIR, "metrics.json")) as file:
        rows = [json.loads(line) for line in file]
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    expected = {"total_loss", "loss_nce", "loss_ml", "multi_label_loss", "nce_accuracy", "lr"}
    expected |= {"positive_similarity", "negative_similarity", "label_similarity", "feature_std"}
    expected |= {"dictionary_rank", "images_per_s", "data_time", "peak_memory_mb"}
    for row in rows:
        assert expected <= row.keys()
        assert row["total_loss"] == pytest.approx(row["loss_nce"] + row["loss_ml"], abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"MOCO__MOMENTUM_SCHEDULE": "cosine"},
        {
            "SOLVER__AMP__ENABLED": "True",
            "PRETRAIN__AMP_DTYPE": "float16",
            "PRETRAIN__EPOCHS": "7.0",  # the scale begins too high
        },
    ],
    ids=["plain", "momentum to one", "scaled gradients"],
)
def test_an_interrupted_run_ends_as_one_that_was_not(config, monkeypatch, changes):
    whole = pretrain(config("whole", **changes))

    class Interrupted(run_module.PretrainTrainer):
        def run_step(self):
            if self.iter == 3:
                raise KeyboardInterrupt
            super().run_step()

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "PretrainTrainer", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config("cut", **changes))
    assert not os.path.exists(os.path.join(config("cut").OUTPUT_DIR, "backbone.pth"))
    assert_equal_weights(whole, pretrain(config("cut", **changes), resume=True))
    if changes:
        with pytest.raises(AssertionError):
            assert_equal_weights(whole, pretrain(config("plain")))


def test_what_a_step_draws_does_not_depend_on_interruptions(config, monkeypatch):
    class Drawing(run_module.PretrainTrainer):
        stop = -1

        def run_step(self):
            if self.iter == self.stop:
                raise KeyboardInterrupt
            super().run_step()
            drawn = torch.rand(()) + random.random() + np.random.rand()
            with torch.no_grad():
                self.method.pair.backbone.stem.conv1.weight.add_(drawn)

    monkeypatch.setattr(run_module, "PretrainTrainer", Drawing)
    whole = pretrain(config("whole"))
    monkeypatch.setattr(Drawing, "stop", 3)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config("cut"))
    monkeypatch.setattr(Drawing, "stop", -1)
    assert_equal_weights(whole, pretrain(config("cut"), resume=True))


def test_a_run_that_was_killed_before_its_last_file_only_writes_that(config, monkeypatch):
    path = pretrain(config())
    before = weights(path)
    os.unlink(path)
    monkeypatch.setattr(run_module.PretrainTrainer, "run_step", None)
    after = weights(pretrain(config(), resume=True))
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_run_goes_on_with_the_seed_that_it_drew(config):
    path = pretrain(config(SEED="-1", PRETRAIN__EPOCHS="1.0"))
    seed = read_backbone(path).info["seed"]
    assert seed >= 0
    os.unlink(path)
    again = pretrain(config(SEED="-1", PRETRAIN__EPOCHS="1.0"), resume=True)
    assert read_backbone(again).info["seed"] == seed


def test_a_run_does_not_go_on_with_other_images(config, images):
    os.unlink(pretrain(config()))
    shutil.copy(images / "0.png", images / "9.png")
    with pytest.raises(UserError, match="DATASETS.TRAIN: the content has changed"):
        pretrain(config(), resume=True)


def test_what_does_not_change_the_weights_may_change_at_a_resume(config):
    os.unlink(pretrain(config()))
    changes = {"PRETRAIN__MAX_BROKEN_SHARE": "0.5", "PRETRAIN__LOG_PERIOD": "2"}
    folder = os.path.dirname(pretrain(config(**changes), resume=True))
    with open(os.path.join(folder, "environment.json")) as file:
        stored = json.load(file)
    assert [then["versions"] for then in stored["earlier"]] == [stored["versions"]]


def test_what_a_run_is_made_with_is_on_disk_before_its_first_step(config, monkeypatch):
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
    assert {"python", "torch", "detectron2", "git_revision", "git_dirty"} <= stored[
        "versions"
    ].keys()
    assert stored["command"] == command_line()
    assert (stored["num_images"], stored["max_iter"]) == (9, 4)
    # Half as many processes as the config is for: half the batch and half the rate.
    assert stored["scaled"] == [
        "SOLVER.BASE_LR: was 0.05, is 0.025",
        "SOLVER.CHECKPOINT_PERIOD: was 2, is 4",
        "SOLVER.IMS_PER_BATCH: was 8, is 4",
        "SOLVER.REFERENCE_WORLD_SIZE: was 2, is 1",
    ]
    with open(os.path.join(config().OUTPUT_DIR, "log.txt")) as file:
        assert "for 1 processes: SOLVER.BASE_LR: was 0.05, is 0.025" in file.read()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_fills_while_a_run_logs_is_a_user_error(config):
    cfg = config()
    os.makedirs(cfg.OUTPUT_DIR)
    os.symlink("/dev/full", os.path.join(cfg.OUTPUT_DIR, "metrics.json"))
    with pytest.raises(UserError, match="No space left on device.*free space, then .*--resume"):
        pretrain(cfg)


def test_a_disk_that_is_full_at_a_checkpoint_loses_nothing_before_it(config, monkeypatch):
    whole = pretrain(config("whole"))
    calls, save = iter(range(100)), torch.save

    def full(*arguments):
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(UserError, match="cannot write to .*model_0000003.pth.*free space"):
            pretrain(config("full"))
    left = os.listdir(config("full").OUTPUT_DIR)
    assert [name for name in left if "model" in name and name.endswith("pth")] == [
        "model_0000001.pth"
    ]
    assert_equal_weights(whole, pretrain(config("full"), resume=True))


def test_a_worker_that_is_killed_is_a_user_error(config, monkeypatch):
    class Robbed(run_module.PretrainTrainer):
        def run_step(self):
            for child in multiprocessing.active_children():
                child.kill()
                child.join()
            super().run_step()

    monkeypatch.setattr(run_module, "PretrainTrainer", Robbed)
    with pytest.raises(UserError, match=r"^DataLoader worker .*lower DATALOADER.NUM_WORKERS"):
        pretrain(config(DATALOADER__NUM_WORKERS="1", PRETRAIN__EPOCHS="20.0"))


def test_gradients_are_scaled_in_half_precision_and_their_scale_is_kept(config):
    cfg = config(SOLVER__AMP__ENABLED="True", PRETRAIN__AMP_DTYPE="float16", PRETRAIN__EPOCHS="7.0")
    pretrain(cfg)
    path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    scaler = torch.load(path, weights_only=True)["grad_scaler"]
    assert 1 < scaler["scale"] < 65536  # lowered until nothing overflowed
    assert scaler["_growth_tracker"] > 0  # steps since


def test_both_encoders_are_compiled_where_that_is_asked_for(config, monkeypatch):
    plain = weights(pretrain(config("plain")))
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    again = weights(pretrain(config("compiled", PRETRAIN__COMPILE="True")))
    assert [type(module).__name__ for module in compiled] == ["ResNet", "ResNet"]
    assert compiled[0] is not compiled[1]
    assert plain.keys() == again.keys()


@pytest.fixture
def labelled(images):
    """The images as a registered dataset: every other one shows a thing in its middle."""
    name = f"labelled {images}"
    records = [
        {
            "file_name": str(path),
            "annotations": [
                {"bbox": [10, 10, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": index % 2}
            ],
        }
        for index, path in enumerate(sorted(images.iterdir()))
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["cup", "cat"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_measuring_with_labels_changes_nothing_but_the_log(config, labelled):
    long = {"PRETRAIN__EPOCHS": "4.0"}
    plain = pretrain(config("plain", **long))
    measured = {
        "DATASETS__TRAIN": f"('{labelled}',)",
        "PRETRAIN__LABEL_QUALITY": "True",
        "PRETRAIN__ONLINE_EVAL__PERIOD": "1.5",
        "PRETRAIN__ONLINE_EVAL__TRAIN": labelled,
        "PRETRAIN__ONLINE_EVAL__TEST": labelled,
    }
    cfg = config("measured", **long, **measured)
    assert_equal_weights(plain, pretrain(cfg))
    with open(os.path.join(cfg.OUTPUT_DIR, "metrics.json")) as file:
        rows = [json.loads(line) for line in file]
    assert [row["iteration"] for row in rows if "knn_map" in row] == [2, 5, 7]
    known = [row for row in rows if "label_precision" in row]
    # The dictionary's 16 rows are known after four batches of four.
    assert [row["iteration"] for row in known] == [4, 5, 6, 7]
    for row in known:
        assert 0 <= row["label_precision"] <= 1
        assert 0.2 < row["label_chance"] < 0.8


def test_the_seed_decides(config):
    one, again = pretrain(config("one")), pretrain(config("again"))
    assert_equal_weights(one, again)
    other = pretrain(config("other", SEED="2"))
    name = "res5.2.conv3.weight"
    assert not torch.equal(weights(one)[name], weights(other)[name])


def test_a_finished_run_is_not_repeated(config, monkeypatch):
    path = pretrain(config())
    stamp = os.stat(path).st_mtime_ns
    monkeypatch.setattr(run_module, "build_loader", None)
    assert pretrain(config(), resume=True) == path
    assert os.stat(path).st_mtime_ns == stamp


def test_resuming_with_another_config_names_the_keys(config):
    pretrain(config())
    with pytest.raises(UserError, match=r"MLS.K: was 3, is 4"):
        pretrain(config(MLS__K="4"), resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(config, monkeypatch):
    class Exploding(run_module.PretrainTrainer):
        def run_step(self):
            if self.iter == 2:
                with torch.no_grad():
                    self.method.pair.projector[0].weight.fill_(float("nan"))
            super().run_step()

    monkeypatch.setattr(run_module, "PretrainTrainer", Exploding)
    cfg = config()
    with pytest.raises(UserError, match="loss_nce = nan"):
        pretrain(cfg)
    saved = [name for name in os.listdir(cfg.OUTPUT_DIR) if name.endswith(".pth")]
    assert saved == ["model_0000001.pth"]
    model = torch.load(os.path.join(cfg.OUTPUT_DIR, saved[0]), weights_only=True)["model"]
    assert all(torch.isfinite(v).all() for v in model.values() if v.is_floating_point())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MLS.K", "16", r"MLS.K must be in \[1, D\).*= 16, got 16"),
        ("MLS.K", "0", r"MLS.K must be in \[1, D\)"),
        ("MOCO.TEMPERATURE", "0.0", "MOCO.TEMPERATURE must be > 0, got 0.0"),
        ("MOCO.MOMENTUM", "1.0", r"MOCO.MOMENTUM must be in \[0, 1\)"),
        ("MOCO.PROJECTOR_NORM", "LN", "'' or 'BN', got 'LN'"),
        ("MOCO.DICTIONARY_SIZE", "18", "IMS_PER_BATCH is 4, MOCO.DICTIONARY_SIZE is 18"),
        ("MOCO.DICTIONARY_SIZE", "2", "the batch must divide the dictionary"),
        ("PRETRAIN.METHOD", "mlss", "PRETRAIN.METHOD 'mlss' is unknown; did you mean 'mls'"),
        ("PRETRAIN.OPTIMIZER", "adam", r"PRETRAIN.OPTIMIZER must be one of .*'lars'.*, got 'adam'"),
        ("PRETRAIN.AMP_DTYPE", "float64", "PRETRAIN.AMP_DTYPE must be one of .*got 'float64'"),
        ("MOCO.MOMENTUM_SCHEDULE", "linear", "MOMENTUM_SCHEDULE must be 'constant' or 'cosine'"),
        ("PRETRAIN.DECODE", "half", "PRETRAIN.DECODE must be one of .*'reduced'.*, got 'half'"),
        ("PRETRAIN.SHARD_WINDOW", "0", "PRETRAIN.SHARD_WINDOW must be >= 1, got 0"),
        ("PRETRAIN.PERMANENT_PERIOD", "-1.0", "PRETRAIN.PERMANENT_PERIOD must be >= 0, got -1"),
        ("PRETRAIN.EPOCHS", "0.0", "PRETRAIN.EPOCHS must be > 0"),
        ("PRETRAIN.AUGMENT.CROP_SCALE", "(0.5, 0.2)", "0 < low <= high <= 1"),
        ("PRETRAIN.AUGMENT.LOCAL_CROPS", "-1", "LOCAL_CROPS must be >= 0, got -1"),
        ("PRETRAIN.AUGMENT.LOCAL_SIZE", "16", "LOCAL_SIZE must be >= 32 pixels, got 16"),
        ("PRETRAIN.AUGMENT.LOCAL_SCALE", "(0.0, 0.2)", "LOCAL_SCALE must be 0 < low"),
        (
            "PRETRAIN.AUGMENT.VIEW2.BLUR_PROB",
            "1.5",
            r"VIEW2.BLUR_PROB must be in \[0, 1\], or None",
        ),
        ("PRETRAIN.AUGMENT.GRAY_PROB", "1.5", r"GRAY_PROB must be in \[0, 1\], got 1.5"),
        ("SOLVER.BASE_LR", "0.0", "SOLVER.BASE_LR must be > 0"),
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT must be 'RGB'"),
        ("SOLVER.IMS_PER_BATCH", "16", "9 images do not fill one batch"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_written(config, key, value, message):
    changes = {key.replace(".", "__"): value}
    cfg = config(**changes)
    with pytest.raises(UserError, match=message):
        pretrain(cfg)
    assert not os.path.exists(cfg.OUTPUT_DIR)


def test_a_damaged_marker_of_scenes_is_found_before_the_run(config, images):
    (images / "scenes.json").write_text('{"format": 0}')
    with pytest.raises(UserError, match="not a marker of format"):
        pretrain(config())
    assert not os.path.exists(config().OUTPUT_DIR)


def test_an_output_dir_that_cannot_be_written_is_refused(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        pretrain(config(OUTPUT_DIR=str(tmp_path / "file" / "run")))


def test_the_length_is_in_whole_batches(config):
    length = run_length(config(), 9)
    assert (length.iters_per_epoch, length.max_iter) == (2, 4)
    assert run_length(config(PRETRAIN__EPOCHS="0.6"), 9).max_iter == 1


def test_the_optimizer_holds_every_parameter_that_trains_once(config):
    cfg = config(SOLVER__WEIGHT_DECAY_NORM="0.0")
    method = build_method(cfg)
    groups = build_optimizer(cfg, method).param_groups
    held = [id(p) for group in groups for p in group["params"]]
    trained = [id(p) for p in method.parameters() if p.requires_grad]
    assert sorted(held) == sorted(trained)
    norms = {id(p) for name, p in method.named_parameters() if ".norm." in name}
    without = [group["params"] for group in groups if group["weight_decay"] == 0]
    assert {id(p) for params in without for p in params} == norms & set(trained)


@pytest.mark.parametrize("length", ["400", "800"])
@pytest.mark.parametrize("method", ["mls", "mocov2"])
def test_the_paper_configs_state_the_paper(request, method, length):
    root = request.config.rootpath
    cfg = load_cfg(str(root / f"pretrain/configs/{method}_coco_{length}ep.yaml"))
    check_config(cfg)
    check_method_config(cfg)
    assert (method, float(length)) == (cfg.PRETRAIN.METHOD, cfg.PRETRAIN.EPOCHS)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH) == (0.3, 256)
    assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM) == (1e-4, 1e-4)
    assert (cfg.MOCO.MOMENTUM, cfg.MOCO.TEMPERATURE, cfg.MOCO.DICTIONARY_SIZE) == (0.995, 0.2, 4096)
    assert (cfg.MLS.K, cfg.MLS.LAMBDA, cfg.MLS.WARMUP) == (20, 0.5, 0.0)
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == (50, False)
    # 118,287 images in batches of 256.
    assert run_length(cfg, 118_287).max_iter == 462 * int(length)


@pytest.mark.parametrize("name", sorted(METHODS.keys() | {"barlowtwins_small"}))
def test_every_method_has_its_configs(request, name):
    folder = request.config.rootpath / "pretrain/configs"
    for kind in ("quick", "coco_400ep", "coco_800ep"):
        cfg = load_cfg(str(folder / f"{name}_{kind}.yaml"))
        check_config(cfg)
        assert name.removesuffix("_small") == cfg.PRETRAIN.METHOD
        assert ("quick" if kind == "quick" else "paper") == cfg.PRESET
        if kind != "quick":
            assert float(kind[5:8]) == cfg.PRETRAIN.EPOCHS
        tail = "-800ep" if kind == "coco_800ep" else ""
        place = "quick" if kind == "quick" else "paper"
        assert f"output/{place}/{name.replace('_', '-')}{tail}" == cfg.OUTPUT_DIR


@pytest.mark.parametrize(
    ("name", "batch", "rate", "decay", "warmup", "optimizer", "norm"),
    [
        ("densecl", 256, 0.3, 1e-4, 0, "sgd", "shuffled"),
        ("revisiting", 256, 0.3, 1e-4, 0, "sgd", "shuffled"),
        ("byol", 512, 0.4, 1e-4, 4, "sgd", "sync"),
        ("simclr", 512, 0.6, 1e-6, 10, "lars", "sync"),
        ("simsiam", 512, 0.1, 1e-4, 0, "sgd", "sync"),
        ("barlowtwins", 512, 0.4, 1.5e-6, 10, "lars", "sync"),
    ],
)
def test_the_configs_of_other_methods_state_what_the_field_publishes(
    request, name, batch, rate, decay, warmup, optimizer, norm
):
    cfg = load_cfg(str(request.config.rootpath / f"pretrain/configs/{name}_coco_800ep.yaml"))
    assert (batch, rate) == (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR)
    assert (decay, warmup) == (cfg.SOLVER.WEIGHT_DECAY, cfg.PRETRAIN.WARMUP_EPOCHS)
    assert (optimizer, norm) == (cfg.PRETRAIN.OPTIMIZER, cfg.PRETRAIN.BATCH_NORM)
    without = cfg.SOLVER.WEIGHT_DECAY_NORM == 0 and cfg.SOLVER.WEIGHT_DECAY_BIAS == 0
    assert without == (optimizer == "lars")
    assert run_length(cfg, 118_287).max_iter == {256: 369_600, 512: 184_800}[batch]
    assert round(cfg.SOLVER.CHECKPOINT_PERIOD * batch / 256) == 4620


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("table6_none", "MLS.LOSS", "none"),
        ("table6_knn", "MLS.LOSS", "knn"),
        ("table6_bce_pos", "MLS.LOSS", "bce_pos"),
        ("table7_g", "MLS.DICTIONARIES", "g"),
        ("table7_z", "MLS.DICTIONARIES", "z"),
        ("table8_k1", "MLS.K", 1),
        ("table8_k5", "MLS.K", 5),
        ("table8_k40", "MLS.K", 40),
        ("figure5_d1024", "MOCO.DICTIONARY_SIZE", 1024),
        ("figure5_d2048", "MOCO.DICTIONARY_SIZE", 2048),
        ("figure5_d8192", "MOCO.DICTIONARY_SIZE", 8192),
        ("figure5_d16384", "MOCO.DICTIONARY_SIZE", 16384),
        ("figure5_lambda0.1", "MLS.LAMBDA", 0.1),
        ("figure5_lambda0.2", "MLS.LAMBDA", 0.2),
        ("figure5_lambda1.0", "MLS.LAMBDA", 1.0),
    ],
)
def test_an_ablation_changes_one_key_of_mls(request, name, key, value):
    folder = request.config.rootpath / "pretrain/configs"
    base = load_cfg(str(folder / "mls_coco_400ep.yaml"))
    cfg = load_cfg(str(folder / f"ablations/{name}.yaml"))
    check_config(cfg)
    check_method_config(cfg)
    assert os.path.basename(cfg.OUTPUT_DIR) == name
    node, leaf = key.split(".")
    assert cfg[node][leaf] == value
    cfg[node][leaf], cfg.OUTPUT_DIR = base[node][leaf], base.OUTPUT_DIR
    assert cfg == base


def test_every_ablation_is_known_to_the_test_above(request):
    folder = request.config.rootpath / "pretrain/configs/ablations"
    marks = test_an_ablation_changes_one_key_of_mls.pytestmark[0].args[1]
    names = {name for name, _, _ in marks} | {"remedy_warmup"}
    assert {path.stem for path in folder.glob("*.yaml")} == names
    cfg = load_cfg(str(folder / "remedy_warmup.yaml"))
    assert cfg.MLS.WARMUP > 0
    assert not cfg.MLS.KEEP_NCE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MLS.LOSS", "mse"], "MLS.LOSS must be one of 'none', 'knn', 'bce_pos', 'bce', got 'mse'"),
        (["MLS.DICTIONARIES", "q"], "MLS.DICTIONARIES must be one of 'g', 'z', 'both', got 'q'"),
    ],
)
def test_an_unknown_ablation_names_the_valid_ones(request, words, message):
    config = request.config.rootpath / "pretrain/configs/mls_quick.yaml"
    with pytest.raises(UserError, match=message):
        check_method_config(load_cfg(str(config), words))
