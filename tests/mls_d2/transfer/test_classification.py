"""Every classification config states its recipe, trains what it should and is evaluated."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torchvision.datasets import Flowers102

from mls_d2.checkpoint.backbone_file import read_backbone, write_backbone
from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import UserError
from mls_d2.data.classification import DATASETS, load_classification
from mls_d2.results.schema import read_result
from mls_d2.run.registration import register_all
from mls_d2.transfer import classification
from mls_d2.transfer import trainer as transfer_trainer
from mls_d2.transfer.classification import Classification, check_batch, watch_frozen
from mls_d2.transfer.run import run_evaluation, run_transfer
from mls_d2.transfer.tasks import task_of
from tests.mls_d2.data.classification_trees import WRITERS

CONFIGS = Path(__file__).resolve().parents[3] / "transfer_configs" / "classification"
LEAVES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "base")
SCENES = [name for name in LEAVES if name.startswith(("voc2007", "scenes_objects"))]
FINE_GRAINED = ("cub200", "flowers102", "cars", "aircraft", "indoor67", "pets", "dtd")
NARROW = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 2,
    "CLASSIFICATION.CROP_SIZE": 32,
    "CLASSIFICATION.RESIZE": 36,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 4,
    "MODEL.WEIGHTS": "random",
    "MODEL.DEVICE": "cpu",
}


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Names of the pictures asked for: drawing takes as long as the rest of such a run."""
    names = []
    monkeypatch.setattr(
        classification, "write_classifications", lambda path, *_: names.append(path)
    )
    return names


@pytest.fixture
def scenes(scenes_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes_root))


@pytest.fixture
def narrow_cfg(tmp_path):
    """Return a config of a few thousand weights and one step, with KEY VALUE pairs merged in."""

    def make(name, *opts):
        register_all()
        path = str(CONFIGS / f"{name}.yaml")
        steps = min(load_cfg(path).SOLVER.MAX_ITER, 1)
        tiny = NARROW | {"SOLVER.MAX_ITER": steps, "OUTPUT_DIR": tmp_path / "run"}
        words = [str(word) for pair in tiny.items() for word in pair]
        return load_cfg(path, [*words, *map(str, opts)])

    return make


def load(name):
    return load_cfg(str(CONFIGS / f"{name}.yaml"))


def test_all_tasks_have_their_config():
    wanted = {f"{key}_finetune" for key in (*FINE_GRAINED, "voc2007", "scenes_objects")}
    wanted |= {f"voc2007_{protocol}" for protocol in ("linear", "svm", "knn")}
    wanted |= {f"scenes_objects_{protocol}" for protocol in ("linear", "knn")}
    quick = {f"{name}_quick" for name in wanted if name.startswith(("voc2007", "scenes_objects"))}
    assert set(LEAVES) == wanted | quick


@pytest.mark.parametrize("name", LEAVES)
def test_a_config_is_that_of_its_task_and_passes_the_check(name):
    cfg = load(name)
    task = task_of(cfg)
    assert isinstance(task, Classification)
    assert task.name(cfg) == name.removesuffix("_quick")
    task.check(cfg)
    kind = "quick" if name.endswith("_quick") else "paper"
    published = name.endswith("finetune") and not name.startswith("scenes")
    assert (kind if published or kind == "quick" else "custom") == cfg.PRESET
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert cfg.INPUT.FORMAT == "RGB"
    assert (cfg.SOLVER.MAX_ITER == 0) == name.removesuffix("_quick").endswith(("svm", "knn"))
    assert ("linear" in name) == cfg.MODEL.CLASSIFIER.FREEZE_BACKBONE


@pytest.mark.parametrize("key", FINE_GRAINED)
def test_the_common_protocol_is_120_epochs_of_sgd_along_a_cosine(key):
    cfg = load(f"{key}_finetune")
    images = next(iter(DATASETS[key].splits.values()))
    assert math.ceil(120 * images / 64) == cfg.SOLVER.MAX_ITER
    assert cfg.SOLVER.IMS_PER_BATCH == 64
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.NESTEROV) == (0.01, 0.9, False)
    assert cfg.SOLVER.WEIGHT_DECAY == cfg.SOLVER.WEIGHT_DECAY_NORM == 5e-4
    assert (cfg.CLASSIFICATION.RESIZE, cfg.CLASSIFICATION.CROP_SIZE) == (256, 224)
    assert (cfg.CLASSIFICATION.TRAIN_CROP, cfg.CLASSIFICATION.TEST_CROP) == (
        "random_resized",
        "center",
    )
    model = torch.nn.Linear(2, 2)
    optimizer = task_of(cfg).optimizer(cfg, model)
    scheduler = task_of(cfg).scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    for step in (0, 1, len(rates) // 3, len(rates) - 1):
        expected = 0.005 * (1 + math.cos(math.pi * step / len(rates)))
        assert rates[step] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_voc2007_is_the_recipe_of_the_field():
    cfg = load("voc2007_finetune")
    assert math.ceil(60 * 5011 / 64) == cfg.SOLVER.MAX_ITER
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.IMS_PER_BATCH) == (
        0.01, 1e-5, 64,
    )  # fmt: skip
    assert (cfg.CLASSIFICATION.TRAIN_CROP, cfg.CLASSIFICATION.RESIZE) == ("random", 256)
    assert cfg.MODEL.CLASSIFIER.MULTI_LABEL
    svm = load("voc2007_svm")
    assert svm.MODEL.CLASSIFIER.SVM_COSTS == (1.0, 10.0, 100.0)
    assert (svm.CLASSIFICATION.TEST_CROP, svm.CLASSIFICATION.CROP_SIZE) == ("squash", 224)


@pytest.mark.parametrize("name", SCENES)
def test_each_runs_on_the_scenes(name, scenes, narrow_cfg, drawn):
    cfg = narrow_cfg(name)
    run_transfer(cfg)
    result = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    assert result.task == name.removesuffix("_quick")
    assert result.dataset["synthetic"]
    metrics = result.metrics["classification"]
    keys = {"mAP", "mAP11"} if name.startswith("voc") else {"top1"}
    assert all(0 <= metrics[key] <= 100 for key in keys)
    assert len(metrics) == (22 if name.startswith("voc") else 1)
    assert drawn == [os.path.join(cfg.OUTPUT_DIR, "predictions.png")]
    trained = os.path.exists(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))
    assert trained == (cfg.SOLVER.MAX_ITER > 0)
    run_transfer(cfg)  # Finished: nothing is done.
    assert len(drawn) == 1


@pytest.mark.parametrize("key", FINE_GRAINED)
def test_each_runs_on_files_in_the_layout_of_the_official_ones(
    key, tmp_path, narrow_cfg, monkeypatch
):
    files = {name: (file, None) for name, (file, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", files)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    WRITERS[key](tmp_path)
    cfg = narrow_cfg(f"{key}_finetune")
    run_transfer(cfg)
    result = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    assert result.task == f"{key}_finetune"
    assert 0 <= result.metrics["classification"]["top1"] <= 100
    assert not result.dataset["synthetic"]


@pytest.fixture
def backbone(narrow_cfg, tmp_path):
    """A backbone file for the narrow model, whose running statistics are no defaults."""
    torch.manual_seed(5)
    network = build_model(narrow_cfg("voc2007_linear")).backbone
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, 32, 32))
    path = str(tmp_path / "backbone.pth")
    write_backbone(path, network.state_dict(), {"method": "mls"})
    return path


def trained_state(cfg):
    return read_backbone(os.path.join(cfg.OUTPUT_DIR, "model_final.pth")).state_dict


def test_a_linear_probe_leaves_its_backbone_bit_for_bit(scenes, narrow_cfg, backbone):
    cfg = narrow_cfg("voc2007_linear", "SOLVER.MAX_ITER", 3, "MODEL.WEIGHTS", backbone)
    run_transfer(cfg)
    given, after = read_backbone(backbone).state_dict, trained_state(cfg)
    assert all(torch.equal(after[f"backbone.{name}"], value) for name, value in given.items())
    # The head was trained: its bias started at zero.
    assert after["head.1.bias"].abs().max() > 0


def test_fine_tuning_moves_every_part_of_the_backbone(scenes, narrow_cfg, backbone):
    cfg = narrow_cfg("voc2007_finetune", "MODEL.WEIGHTS", backbone, "SOLVER.MAX_ITER", 3)
    run_transfer(cfg)
    given, after = read_backbone(backbone).state_dict, trained_state(cfg)
    same = [name for name, value in given.items() if torch.equal(after[f"backbone.{name}"], value)]
    assert not same


@pytest.mark.parametrize("tensor", ["stem.conv1.weight", "res4.2.conv2.norm.running_var"])
def test_a_run_whose_frozen_backbone_changed_is_no_result(
    scenes, narrow_cfg, backbone, monkeypatch, tensor
):
    step = transfer_trainer.TrainingLoop.run_step

    def spoil(trainer):
        step(trainer)
        with torch.no_grad():
            trainer.model.backbone.state_dict()[tensor].view(-1)[0] += 1e-6

    monkeypatch.setattr(transfer_trainer.TrainingLoop, "run_step", spoil)
    cfg = narrow_cfg("voc2007_linear", "MODEL.WEIGHTS", backbone)
    with pytest.raises(UserError, match=f"frozen backbone changed in training: {tensor}"):
        run_transfer(cfg)
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    # Nor is it one when the evaluation is tried again.
    monkeypatch.setattr(transfer_trainer.TrainingLoop, "run_step", step)
    with pytest.raises(UserError, match="frozen backbone changed"):
        run_transfer(cfg, resume=True)


def test_watching_names_what_changed():
    module = torch.nn.BatchNorm2d(3)
    unchanged = watch_frozen(module)
    unchanged()
    module.train()(torch.randn(4, 3, 2, 2))
    with pytest.raises(
        UserError, match="running_mean, running_var, num_batches_tracked and 0 more"
    ):
        unchanged()


def test_fitted_heads_take_the_features_of_the_backbone_that_is_given(
    scenes, narrow_cfg, backbone, tmp_path
):
    values = {}
    for head in ("svm", "knn"):
        for weights in (backbone, "random"):
            out = tmp_path / f"{head}-{os.path.basename(weights)}"
            run_transfer(narrow_cfg(f"voc2007_{head}", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", out))
            result = read_result(out / "results.json")
            values[head, weights] = result.metrics["classification"]["mAP"]
            assert result.method == ("random" if weights == "random" else "mls")
            assert math.isnan(result.images_per_s)
            assert json.loads((out / "results.json").read_text())["images_per_s"] is None
    assert len(set(values.values())) > 2


def test_evaluation_alone_gives_the_metrics_of_the_run(scenes, narrow_cfg, tmp_path):
    cfg = narrow_cfg("voc2007_finetune", "SOLVER.MAX_ITER", 3)
    run_transfer(cfg)
    final = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    again = tmp_path / "evaluated"
    run_evaluation(narrow_cfg("voc2007_finetune", "MODEL.WEIGHTS", final, "OUTPUT_DIR", again))
    before, after = (
        read_result(os.path.join(folder, "results.json")).metrics["classification"]
        for folder in (cfg.OUTPUT_DIR, again)
    )
    assert after == pytest.approx(before, nan_ok=True)
    with pytest.raises(UserError, match="nothing to evaluate with --eval-only"):
        run_evaluation(narrow_cfg("voc2007_svm", "MODEL.WEIGHTS", final, "OUTPUT_DIR", again / "b"))


@pytest.mark.parametrize(
    ("name", "opts", "problem"),
    [
        ("voc2007_knn", ("SOLVER.MAX_ITER", 5), "SOLVER.MAX_ITER 5 does not go with .*HEAD knn"),
        ("voc2007_linear", ("SOLVER.MAX_ITER", 0), "MAX_ITER 0 does not go with .* bn_linear"),
        ("cub200_finetune", ("MODEL.CLASSIFIER.NUM_CLASSES", 20), "has 200 classes, the model 20"),
        ("voc2007_svm", ("MODEL.CLASSIFIER.MULTI_LABEL", "False"), "set .*MULTI_LABEL True"),
        ("voc2007_svm", ("MODEL.CLASSIFIER.HEAD", "tree"), "HEAD is 'tree', expected one of lin"),
        ("voc2007_svm", ("MODEL.CLASSIFIER.SVM_COSTS", "(1.0, 0.0)"), "SVM_COSTS is .* above 0"),
        ("voc2007_knn", ("MODEL.CLASSIFIER.KNN_K", 0), "KNN_K is 0, expected 1 or more"),
        ("voc2007_knn", ("MODEL.CLASSIFIER.KNN_TEMPERATURE", 0.0), "TEMPERATURE is 0.0, expected"),
        ("voc2007_linear", ("CLASSIFICATION.RESIZE", 31), "RESIZE is 31, expected CROP_SIZE or"),
        ("voc2007_linear", ("CLASSIFICATION.CROP_SIZE", 16), "CROP_SIZE is 16, expected 32"),
        ("voc2007_linear", ("CLASSIFICATION.CROP_SCALE", "(0.5, 0.2)"), "CROP_SCALE is .* smaller"),
        ("voc2007_linear", ("CLASSIFICATION.TEST_CROP", "ten"), "TEST_CROP is 'ten', expected one"),
        ("voc2007_linear", ("INPUT.FORMAT", "L"), "INPUT.FORMAT is 'L', expected one of RGB, BGR"),
        (
            "voc2007_linear",
            ("DATASETS.TRAIN", "('voc_2007_trainval',)"),
            "'voc_2007_trainval' is no classification dataset",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(narrow_cfg, name, opts, problem):
    cfg = narrow_cfg(name, *opts)
    with pytest.raises(UserError, match=problem):
        task_of(cfg).check(cfg)


ONE_EACH = ("SOLVER.IMS_PER_BATCH", 2, "SOLVER.REFERENCE_WORLD_SIZE", 2)


@pytest.mark.parametrize(
    ("name", "norm", "problem", "shared"),
    [
        ("voc2007_linear", "BN", "CLASSIFIER.HEAD bn_linear sees one image at a time", True),
        ("voc2007_finetune", "BN", "RESNETS.NORM BN sees one image", False),
        ("voc2007_finetune", "SyncBN", "RESNETS.NORM SyncBN sees one image", True),
    ],
)
def test_one_image_is_refused_where_a_norm_sees_one_value_of_it(
    scenes, narrow_cfg, name, norm, problem, shared
):
    cfg = narrow_cfg(name, *ONE_EACH, "MODEL.RESNETS.NORM", norm)
    with pytest.raises(UserError, match=f"{problem}.*1 processes"):
        run_transfer(cfg)
    if shared:
        check_batch(cfg, world_size=2)
    else:
        with pytest.raises(UserError, match=f"{problem}.*2 processes"):
            check_batch(cfg, world_size=2)


@pytest.mark.parametrize(
    "opts", [("CLASSIFICATION.CROP_SIZE", 33), ("MODEL.RESNETS.NORM", "FrozenBN")]
)
def test_one_image_is_enough_where_a_norm_sees_more_or_trains_nothing(scenes, narrow_cfg, opts):
    cfg = narrow_cfg("voc2007_finetune", *ONE_EACH, *opts)
    run_transfer(cfg)
    assert os.path.exists(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))


def test_memory_is_saved_by_smaller_crops_and_people_see_the_test_crop(narrow_cfg, scenes):
    cfg = narrow_cfg("voc2007_linear")
    assert task_of(cfg).input_size(cfg) == "CLASSIFICATION.CROP_SIZE (32)"
    record = load_classification("voc2007_test").records[0]
    assert task_of(cfg).test_mapper(cfg)(record)["image"].shape == (3, 32, 32)


def test_missing_data_is_named_before_anything_is_built(narrow_cfg, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = narrow_cfg("cub200_finetune")
    with pytest.raises(UserError, match="CUB_200_2011/images.txt[\\s\\S]*get .* from https://"):
        run_transfer(cfg)
    assert not os.path.exists(cfg.OUTPUT_DIR)
