"""Every classification config states its recipe, trains what it should and is evaluated."""

import json
import math
import os

import pytest
import torch
from detectron2.modeling import build_model
from torchvision.datasets import Flowers102

from mls_d2.checkpoint.backbone_file import read_backbone, write_backbone
from mls_d2.config.loading import load_cfg
from mls_d2.data.classification import DATASETS
from mls_d2.results.schema import read_result
from mls_d2.run.registration import register_all
from mls_d2.transfer import classification
from mls_d2.transfer import trainer as transfer_trainer
from mls_d2.transfer.classification import Classification, check_batch
from mls_d2.transfer.run import run_transfer
from mls_d2.transfer.tasks import task_of
from tests.conftest import few
from tests.mls_d2.conftest import NARROW, REPOSITORY, load_with
from tests.mls_d2.data.classification_trees import WRITERS

CONFIGS = REPOSITORY / "transfer_configs" / "classification"
LEAVES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "base")
SCENES = [name for name in LEAVES if name.endswith("_quick")]
FINE_GRAINED = ("cub200", "flowers102", "cars", "aircraft", "indoor67", "pets", "dtd")
TINY = NARROW | {
    "CLASSIFICATION.CROP_SIZE": 32,
    "CLASSIFICATION.RESIZE": 36,
    "SOLVER.IMS_PER_BATCH": 4,
    "MODEL.DEVICE": "cpu",
    "MODEL.CLASSIFIER.POOL_SIZE": 0,  # Its maps have one position.
}


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Names of the requested pictures: drawing takes as long as the rest of such a run."""
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
        steps = min(load(name).SOLVER.MAX_ITER, 1)
        values = TINY | {"SOLVER.MAX_ITER": steps, "OUTPUT_DIR": tmp_path / "run"}
        return load_with(CONFIGS / f"{name}.yaml", values, opts)

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
    crops = (cfg.CLASSIFICATION.TRAIN_CROP, cfg.CLASSIFICATION.TEST_CROP)
    assert crops == ("random_resized", "center")
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
    cfg, svm = load("voc2007_finetune"), load("voc2007_svm")
    assert math.ceil(60 * 5011 / 64) == cfg.SOLVER.MAX_ITER
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (0.01, 1e-5)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.CLASSIFIER.MULTI_LABEL) == (64, True)
    assert (cfg.CLASSIFICATION.TRAIN_CROP, cfg.CLASSIFICATION.RESIZE) == ("random", 256)
    assert svm.MODEL.CLASSIFIER.SVM_COSTS == (1.0, 10.0, 100.0)
    assert svm.MODEL.CLASSIFIER.POOL_SIZE == 6
    assert (svm.CLASSIFICATION.TEST_CROP, svm.CLASSIFICATION.CROP_SIZE) == ("squash", 224)


@pytest.mark.parametrize("name", few(SCENES, *(name for name in SCENES if "voc2007" in name)))
def test_each_runs_on_the_scenes(name, scenes, narrow_cfg, drawn):
    cfg = narrow_cfg(name)
    run_transfer(cfg)
    result = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    assert result.task == name.removesuffix("_quick")
    assert result.dataset.synthetic
    metrics = result.metrics["classification"]
    keys = {"mAP", "mAP11"} if name.startswith("voc") else {"top1"}
    assert all(0 <= metrics[key] <= 100 for key in keys)
    assert len(metrics) == (22 if name.startswith("voc") else 1)
    assert drawn == [os.path.join(cfg.OUTPUT_DIR, "predictions.png")]
    trained = os.path.exists(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))
    assert trained == (cfg.SOLVER.MAX_ITER > 0)
    run_transfer(cfg)  # Finished: nothing is done.
    assert len(drawn) == 1


@pytest.mark.parametrize("key", few(FINE_GRAINED, "pets"))
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
    assert not result.dataset.synthetic


@pytest.fixture
def backbone(narrow_cfg, tmp_path):
    """A backbone file for the narrow model, with running statistics other than the defaults."""
    torch.manual_seed(5)
    network = build_model(narrow_cfg("voc2007_linear")).backbone
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, 32, 32))
    path = str(tmp_path / "backbone.pth")
    write_backbone(path, network.state_dict(), {"method": "mls"})
    return path


def test_a_linear_probe_keeps_its_backbone_bit_for_bit_and_fine_tuning_changes_all_of_it(
    scenes, narrow_cfg, backbone, tmp_path
):
    given = read_backbone(backbone).state_dict
    for name, expected in (("voc2007_linear", set(given)), ("voc2007_finetune", set())):
        opts = ("SOLVER.MAX_ITER", 3, "MODEL.WEIGHTS", backbone, "OUTPUT_DIR", tmp_path / name)
        run_transfer(narrow_cfg(name, *opts))
        after = read_backbone(str(tmp_path / name / "model_final.pth")).state_dict
        same = {key for key, value in given.items() if torch.equal(after[f"backbone.{key}"], value)}
        assert same == expected
        # The head was trained: its bias started at zero.
        assert after[next(k for k in after if k.startswith("head.") and k.endswith("bias"))].any()


@pytest.mark.parametrize("tensor", ["stem.conv1.weight", "res4.2.conv2.norm.running_var"])
def test_a_run_whose_frozen_backbone_changed_is_no_result(
    scenes, narrow_cfg, backbone, monkeypatch, tensor, refuses
):
    step = transfer_trainer.TrainingLoop.run_step

    def spoil(trainer):
        step(trainer)
        with torch.no_grad():
            trainer.model.backbone.state_dict()[tensor].view(-1)[0] += 1e-6

    monkeypatch.setattr(transfer_trainer.TrainingLoop, "run_step", spoil)
    cfg = narrow_cfg("voc2007_linear", "MODEL.WEIGHTS", backbone)
    with refuses("frozen-changed", f": {tensor} and 0 more"):
        run_transfer(cfg)
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    # A resume does not make it one.
    monkeypatch.setattr(transfer_trainer.TrainingLoop, "run_step", step)
    with refuses("frozen-changed"):
        run_transfer(cfg, resume=True)


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


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("voc2007_knn", "SOLVER.MAX_ITER", 5),
        ("voc2007_linear", "SOLVER.MAX_ITER", 0),
        ("cub200_finetune", "MODEL.CLASSIFIER.NUM_CLASSES", 20),
        ("voc2007_svm", "MODEL.CLASSIFIER.MULTI_LABEL", "False"),
        ("voc2007_svm", "MODEL.CLASSIFIER.HEAD", "tree"),
        ("voc2007_svm", "MODEL.CLASSIFIER.SVM_COSTS", "(1.0, 0.0)"),
        ("voc2007_knn", "MODEL.CLASSIFIER.KNN_K", 0),
        ("voc2007_knn", "MODEL.CLASSIFIER.KNN_TEMPERATURE", 0.0),
        ("voc2007_linear", "CLASSIFICATION.RESIZE", 31),
        ("voc2007_linear", "CLASSIFICATION.CROP_SIZE", 16),
        ("voc2007_linear", "CLASSIFICATION.CROP_SCALE", "(0.5, 0.2)"),
        ("voc2007_linear", "CLASSIFICATION.TEST_CROP", "ten"),
        ("voc2007_linear", "INPUT.FORMAT", "L"),
    ],
)
def test_values_that_do_not_fit_are_refused(narrow_cfg, name, key, value, refuses):
    cfg = narrow_cfg(name, key, value)
    with refuses("bad-value", key):
        task_of(cfg).check(cfg)


ONE_EACH = ("SOLVER.IMS_PER_BATCH", 2, "SOLVER.REFERENCE_WORLD_SIZE", 2)


@pytest.mark.parametrize(
    ("name", "norm", "key", "shared"),
    [
        ("voc2007_linear", "BN", "CLASSIFIER.HEAD bn_linear", True),
        ("voc2007_finetune", "BN", "RESNETS.NORM BN", False),
        ("voc2007_finetune", "SyncBN", "RESNETS.NORM SyncBN", True),
    ],
)
def test_one_image_is_refused_if_a_trained_norm_sees_one_value_of_it(
    narrow_cfg, name, norm, key, shared, refuses
):
    cfg = narrow_cfg(name, *ONE_EACH, "MODEL.RESNETS.NORM", norm)
    for world_size in (1,) if shared else (1, 2):
        with refuses("batch-too-small", key):
            check_batch(cfg, world_size=world_size)
    if shared:
        check_batch(cfg, world_size=2)
    for enough in (("CLASSIFICATION.CROP_SIZE", 33), ("MODEL.RESNETS.NORM", "FrozenBN")):
        check_batch(narrow_cfg("voc2007_finetune", *ONE_EACH, *enough), world_size=1)
