"""Every segmentation config: its values, its gradients, a step and an evaluation on tiny scenes."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from PIL import Image

from mls_d2.checkpoint.backbone_file import read_backbone, write_backbone
from mls_d2.config.loading import load_cfg
from mls_d2.config.recipes import differing_keys, transfer_recipe
from mls_d2.config.rules import value_at
from mls_d2.data.cityscapes import COLORS, cityscapes_records
from mls_d2.data.detection import UnreadableImageError
from mls_d2.data.segmentation_mapper import read_labels
from mls_d2.results.schema import read_result
from mls_d2.run.processes import scale_to_processes
from mls_d2.run.registration import register_all
from mls_d2.transfer.predict import run_demo
from mls_d2.transfer.run import run_transfer
from mls_d2.transfer.segmentation import PolyParamScheduler, Segmentation, check_batch
from mls_d2.transfer.tasks import task_of
from tests.conftest import few
from tests.mls_d2.conftest import NARROW, REPOSITORY, forget, load_with

FOLDER = REPOSITORY / "transfer_configs" / "cityscapes"
PAPER = ("pspnet_R_50_40k", "psanet_R_50_40k", "pspnet_R_50_40k_769", "psanet_R_50_40k_769")
QUICK = ("pspnet_R_50_quick", "psanet_R_50_quick")


@pytest.fixture(scope="module")
def tiny_cityscapes(scenes_root):
    """The names of a registered training and a test set."""
    names = []
    for split in ("train", "val"):
        name = f"cityscapes_tiny_{split}"
        folders = [str(scenes_root / "cityscapes" / p / split) for p in ("leftImg8bit", "gtFine")]
        DatasetCatalog.register(name, functools.partial(cityscapes_records, name))
        builtin = MetadataCatalog.get("cityscapes_fine_sem_seg_val")
        MetadataCatalog.get(name).set(
            image_dir=folders[0],
            gt_dir=folders[1],
            evaluator_type="cityscapes_sem_seg",
            ignore_label=255,
            stuff_classes=builtin.stuff_classes,
        )
        names.append(name)
    yield names
    forget(names)


@pytest.fixture
def make_cfg(tmp_path, tiny_cityscapes):
    """Return a config made tiny, with more KEY VALUE pairs merged in."""

    def make(config, *opts):
        train, test = tiny_cityscapes
        odd = config.endswith("769")
        tiny = NARROW | {
            "DATASETS.TRAIN": f"('{train}',)",
            "DATASETS.TEST": f"('{test}',)",
            "MODEL.DEVICE": "cpu",
            "MODEL.SEM_SEG_HEAD.CONVS_DIM": 8,
            "MODEL.AUXILIARY_HEAD.CONVS_DIM": 8,
            "INPUT.SEGMENTATION.BASE_SIZE": "(97, 193)" if odd else "(96, 192)",
            "INPUT.SEGMENTATION.CROP_SIZE": "(65, 65)" if odd else "(48, 96)",
            "TEST.SLIDING_WINDOW": "(65, 65)" if odd else "(0, 0)",
            "TEST.SLIDING_STRIDE": "(43, 43)",
            "TEST.EVAL_PERIOD": 0,
            "SOLVER.IMS_PER_BATCH": 2,
            "SOLVER.REFERENCE_WORLD_SIZE": 1,
            "SOLVER.MAX_ITER": 1,
            "OUTPUT_DIR": str(tmp_path / "run"),
        }
        return load_with(FOLDER / f"{config}.yaml", tiny, opts)

    return make


RECIPE = {
    "SOLVER.MAX_ITER": 40000, "SOLVER.IMS_PER_BATCH": 8, "SOLVER.REFERENCE_WORLD_SIZE": 4,
    "SOLVER.BASE_LR": 0.01, "SOLVER.MOMENTUM": 0.9, "SOLVER.NESTEROV": False,
    "SOLVER.WEIGHT_DECAY": 5e-4, "SOLVER.WEIGHT_DECAY_NORM": 5e-4,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR", "SOLVER.POLY_POWER": 0.9, "SOLVER.POLY_FLOOR": 0.01,
    "SOLVER.WARMUP_ITERS": 0, "SOLVER.CLIP_GRADIENTS.ENABLED": False, "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "SyncBN", "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.OUTPUT_STRIDE": 8,
    "MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.SEM_SEG_HEAD.NORM": "SyncBN",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 512, "MODEL.SEM_SEG_HEAD.DROPOUT": 0.1,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 19, "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 255,
    "MODEL.AUXILIARY_HEAD.IN_FEATURES": ["res4"], "MODEL.AUXILIARY_HEAD.CONVS_DIM": 256,
    "MODEL.AUXILIARY_HEAD.LOSS_WEIGHT": 0.4, "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375], "INPUT.FORMAT": "RGB",
    "INPUT.RANDOM_FLIP": "horizontal", "INPUT.SEGMENTATION.SCALE_RANGE": (0.5, 2.0),
    "INPUT.SEGMENTATION.MAX_CLASS_SHARE": 0.75, "TEST.EVAL_PERIOD": 4000,
}  # fmt: skip
SIZES = {  # of an image, of a crop, of a window, whether corners are aligned, preset
    "40k": ((1024, 2048), (512, 1024), (0, 0), False, "paper"),
    "769": ((1025, 2049), (769, 769), (769, 769), True, "custom"),
}


@pytest.mark.parametrize("config", PAPER)
def test_the_recipes_are_those_of_the_field(config):
    cfg = load_cfg(str(FOLDER / f"{config}.yaml"))
    head, node, test = cfg.MODEL.SEM_SEG_HEAD, cfg.INPUT.SEGMENTATION, cfg.TEST
    assert {key: value_at(cfg, key) for key in RECIPE} == RECIPE
    assert cfg.SOLVER.WEIGHT_DECAY_BIAS in (None, 5e-4)
    assert ("PSPHead" if config.startswith("psp") else "PSAHead") == head.NAME
    assert (head.POOL_SCALES, head.PSA_MASK_SIZE) == ((1, 2, 3, 6), (97, 97))
    sizes = (node.BASE_SIZE, node.CROP_SIZE, test.SLIDING_WINDOW, head.ALIGN_CORNERS, cfg.PRESET)
    assert sizes == SIZES[config[-3:]]
    assert test.SLIDING_STRIDE == (513, 513)


SIZE_AND_LENGTH = {
    "INPUT.SEGMENTATION.BASE_SIZE",
    "INPUT.SEGMENTATION.CROP_SIZE",
    "MODEL.AUXILIARY_HEAD.CONVS_DIM",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM",
    "MODEL.SEM_SEG_HEAD.PSA_MASK_SIZE",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.BASE_LR",  # for the length
    "SOLVER.MAX_ITER",
    "SOLVER.REFERENCE_WORLD_SIZE",
}


@pytest.mark.parametrize("config", QUICK)
def test_the_quick_ones_differ_in_size_and_length_only(config):
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*PAPER, *QUICK}
    quick = load_cfg(str(FOLDER / f"{config}.yaml"))
    paper = load_cfg(str(FOLDER / f"{config.replace('quick', '40k')}.yaml"))
    assert quick.PRESET == "quick"
    changed = differing_keys([transfer_recipe(cfg.dump()) for cfg in (quick, paper)])
    assert set(changed) - SIZE_AND_LENGTH == set()


@pytest.mark.parametrize("config", few(PAPER, "pspnet_R_50_40k", "psanet_R_50_40k_769"))
def test_it_takes_a_step_and_is_evaluated(make_cfg, config):
    cfg = make_cfg(config, "SOLVER.BASE_LR", 0.05)
    run_transfer(cfg)
    result = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    assert result.task == f"cityscapes_{config[:6]}"
    assert result.dataset.num_images == 4
    metrics = result.metrics["sem_seg"]
    assert {"mIoU", "mAcc", "aAcc", "IoU-road", "IoU-bicycle"} <= set(metrics)
    assert 0 < metrics["aAcc"] < 100
    assert Path(cfg.OUTPUT_DIR, "predictions.png").stat().st_size > 10_000


@pytest.fixture
def one_damaged(tiny_cityscapes, tmp_path):
    """The names of the training set with one image cut short, and of its other images."""
    records = DatasetCatalog.get(tiny_cityscapes[0])
    assert len(records) > 1
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(records[0]["file_name"]).read_bytes()[:500])
    records[0]["file_name"] = str(broken)
    name = "cityscapes_tiny_damaged"
    DatasetCatalog.register(name, lambda: records)
    return name, {record["file_name"] for record in records[1:]}


def test_a_damaged_image_is_left_out_of_training_and_stops_an_evaluation(
    make_cfg, one_damaged, caplog
):
    name, others = one_damaged
    cfg = make_cfg("pspnet_R_50_quick", "DATASETS.TRAIN", f"('{name}',)")
    batches = iter(Segmentation().train_loader(cfg))
    assert {item["file_name"] for _ in range(8) for item in next(batches)} == others
    assert "broken.png" in caplog.text
    assert "left out of training" in caplog.text
    with pytest.raises(UnreadableImageError, match=r"broken\.png' cannot be used"):
        list(Segmentation().test_loader(cfg, name))


@pytest.mark.parametrize("config", QUICK)
def test_every_parameter_is_trained(make_cfg, config):
    register_all()
    cfg = make_cfg(config)
    model = build_model(cfg)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in model.named_parameters()}
    optimizer = Segmentation().optimizer(cfg, model)
    groups = optimizer.param_groups
    assert sum(len(group["params"]) for group in groups) == len(trained)
    assert {(g["lr"], g["weight_decay"]) for g in groups} == {(cfg.SOLVER.BASE_LR, 5e-4)}
    batch = next(iter(Segmentation().train_loader(cfg)))
    assert len(batch) == 2
    sum(model(batch).values()).backward()
    without = [name for name, value in model.named_parameters() if not value.grad.abs().sum() > 0]
    assert without == []


def test_a_backbone_of_detectron2s_plain_network_is_taken_whole(make_cfg, tmp_path):
    cfg = make_cfg("pspnet_R_50_quick", "SOLVER.BASE_LR", 0.0)
    plain = cfg.clone()
    plain.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    torch.manual_seed(5)
    network = build_resnet_backbone(plain, ShapeSpec(channels=3))
    cfg.MODEL.WEIGHTS = str(tmp_path / "backbone.pth")
    write_backbone(cfg.MODEL.WEIGHTS, network.state_dict(), {"method": "mls"})
    run_transfer(cfg)
    result = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    assert result.method == "mls"
    trained = read_backbone(os.path.join(cfg.OUTPUT_DIR, "model_final.pth")).state_dict
    given = {n: v for n, v in network.state_dict().items() if "norm" not in n}
    assert given
    assert all(torch.equal(trained[f"backbone.{name}"], value) for name, value in given.items())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.SEM_SEG_HEAD.NAME", "PSPHeed"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 20),
        ("MODEL.SEM_SEG_HEAD.PSA_MASK_SIZE", "(4, 5)"),
        ("INPUT.SEGMENTATION.SCALE_RANGE", "(2.0, 0.5)"),
        ("INPUT.SEGMENTATION.CROP_SIZE", "(0, 64)"),
        ("INPUT.SEGMENTATION.MAX_CLASS_SHARE", 0.0),
        ("INPUT.FORMAT", "BGR"),
        ("TEST.SLIDING_WINDOW", "(32, 32)"),  # Its stride is larger.
        ("SOLVER.POLY_FLOOR", 1.5),
    ],
)
def test_values_that_do_not_fit_are_refused(make_cfg, key, value, refuses):
    cfg = make_cfg("pspnet_R_50_quick", key, value)
    with refuses("bad-value", key):
        task_of(cfg).check(cfg)


def test_what_detectron2_builds_is_checked_too(make_cfg, refuses):
    register_all()
    for opts in (
        ("MODEL.RESNETS.OUTPUT_STRIDE", 4),
        ("MODEL.AUXILIARY_HEAD.IN_FEATURES", "['res3']"),
    ):
        with refuses("bad-value", opts[0].rpartition(".")[2]):
            build_model(make_cfg("pspnet_R_50_quick", *opts))
    cfg = make_cfg("pspnet_R_50_quick", "DATASETS.TEST", "('coco_2017_val',)")
    with refuses("no-evaluator"):
        task_of(cfg).check(cfg)


def test_one_image_per_process_is_enough_if_statistics_are_shared(make_cfg, refuses):
    cfg = make_cfg("pspnet_R_50_quick", "SOLVER.IMS_PER_BATCH", 4, "SOLVER.REFERENCE_WORLD_SIZE", 4)
    check_batch(cfg, world_size=2)
    with refuses("batch-too-small"):
        check_batch(cfg, world_size=1)
    cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    with refuses("batch-too-small"):
        check_batch(cfg, world_size=2)
    cfg.MODEL.SEM_SEG_HEAD.NAME = "PSAHead"
    check_batch(cfg, world_size=1)


def test_predictions_of_a_perfect_model_are_perfect(make_cfg, tiny_cityscapes):
    cfg = make_cfg("pspnet_R_50_quick")

    class Oracle(torch.nn.Module):
        def forward(self, items):
            outputs = []
            for item in items:
                labels = read_labels(item["sem_seg_file_name"], 19, 255)
                labels = np.where(labels == 255, 0, labels).astype(np.int64)
                logits = torch.nn.functional.one_hot(torch.from_numpy(labels), 19)
                outputs.append({"sem_seg": logits.permute(2, 0, 1)})
            return outputs

    metrics = task_of(cfg).evaluate(cfg, Oracle())["sem_seg"]
    assert (metrics["mIoU"], metrics["mAcc"], metrics["aAcc"]) == (100, 100, 100)


def test_the_demo_draws_classes_at_the_size_of_the_image(make_cfg, tmp_path, tiny_cityscapes):
    cfg = make_cfg("pspnet_R_50_quick")
    run_transfer(cfg)
    cfg.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    image = np.zeros((50, 70, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "black.png")
    colors = MetadataCatalog.get("cityscapes_fine_sem_seg_val").stuff_colors
    assert colors == COLORS.tolist()  # Registered by the run.
    MetadataCatalog.get(tiny_cityscapes[1]).stuff_colors = colors
    (drawn,), _ = run_demo(cfg, [str(tmp_path / "black.png")], str(tmp_path / "o"), min_score=0.5)
    pixels = np.asarray(Image.open(drawn))
    assert pixels.shape == image.shape
    shades = (COLORS * 0.6).round().astype(int).tolist()
    assert all(color in shades for color in np.unique(pixels.reshape(-1, 3), axis=0).tolist())


def rates(cfg, at):
    """Return the learning rates of some iterations of a run."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    scheduler = Segmentation().scheduler(cfg, optimizer)
    found = []
    for iteration in range(max(at) + 1):
        if iteration in at:
            found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.fixture
def recipe():
    return load_cfg(str(FOLDER / "pspnet_R_50_40k.yaml"))


def test_the_recipe_falls_from_a_hundredth_to_its_floor_without_warm_up(recipe):
    at = [0, 1, 500, 2000, 3999]
    recipe.SOLVER.MAX_ITER = 4000
    expected = [(0.01 - 1e-4) * (1 - t / 4000) ** 0.9 + 1e-4 for t in at]
    assert rates(recipe, at) == pytest.approx(expected, rel=1e-12)
    assert PolyParamScheduler(0.9, 0.01)(1.0) == pytest.approx(0.01)


def test_the_floor_follows_the_learning_rate_when_the_batch_is_scaled(recipe):
    recipe.SOLVER.MAX_ITER = 100
    one = scale_to_processes(recipe, 1)
    assert (one.SOLVER.IMS_PER_BATCH, one.SOLVER.BASE_LR, one.SOLVER.MAX_ITER) == (2, 0.0025, 400)
    assert rates(one, [0, 40]) == pytest.approx([r / 4 for r in rates(recipe, [0, 10])])


def test_warm_up_and_detectron2s_schedules_work(recipe):
    recipe.SOLVER.MAX_ITER, recipe.SOLVER.WARMUP_ITERS = 100, 10
    recipe.SOLVER.WARMUP_FACTOR = 0.0
    after = PolyParamScheduler(0.9, 0.01)(0.1) * 0.01
    assert rates(recipe, [0, 5, 10]) == pytest.approx([0.0, after / 2, after])
    recipe.SOLVER.LR_SCHEDULER_NAME, recipe.SOLVER.WARMUP_ITERS = "WarmupMultiStepLR", 0
    recipe.SOLVER.STEPS = (5,)
    assert rates(recipe, [4, 5]) == pytest.approx([0.01, 0.001])
