"""Every segmentation config: its values, its gradients, a step and an evaluation on tiny scenes."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from PIL import Image

from mls_d2.checkpoint.backbone_file import read_backbone, write_backbone
from mls_d2.config.loading import load_cfg
from mls_d2.config.recipes import differing_keys, transfer_recipe
from mls_d2.core.errors import UserError
from mls_d2.data.cityscapes import COLORS
from mls_d2.data.detection import UnreadableImageError
from mls_d2.data.segmentation_mapper import read_labels
from mls_d2.results.schema import read_result
from mls_d2.run.environment import seed_everything
from mls_d2.run.registration import register_all
from mls_d2.transfer.predict import run_demo
from mls_d2.transfer.run import run_evaluation, run_transfer
from mls_d2.transfer.segmentation import Segmentation
from mls_d2.transfer.segmentation_checks import check_batch
from mls_d2.transfer.tasks import task_of

FOLDER = Path(__file__).resolve().parents[3] / "transfer_configs" / "cityscapes"
PAPER = ("pspnet_R_50_40k", "psanet_R_50_40k", "pspnet_R_50_40k_769", "psanet_R_50_40k_769")
QUICK = ("pspnet_R_50_quick", "psanet_R_50_quick")


@pytest.fixture(scope="module")
def tiny_cityscapes(scenes_root):
    """The names of a registered training and a test set."""
    names = []
    for split in ("train", "val"):
        name = f"cityscapes_tiny_{split}"
        folders = [str(scenes_root / "cityscapes" / p / split) for p in ("leftImg8bit", "gtFine")]
        DatasetCatalog.register(name, lambda f=folders: load_cityscapes_semantic(*f))
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
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def make_cfg(tmp_path, tiny_cityscapes):
    """Return a config made tiny, with more KEY VALUE pairs merged in."""

    def make(config, *opts):
        train, test = tiny_cityscapes
        odd = config.endswith("769")
        tiny = {
            "DATASETS.TRAIN": f"('{train}',)",
            "DATASETS.TEST": f"('{test}',)",
            "MODEL.WEIGHTS": "random",
            "MODEL.DEVICE": "cpu",
            "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
            "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
            "MODEL.RESNETS.WIDTH_PER_GROUP": 2,
            "MODEL.SEM_SEG_HEAD.CONVS_DIM": 8,
            "MODEL.AUXILIARY_HEAD.CONVS_DIM": 8,
            "INPUT.SEGMENTATION.BASE_SIZE": "(97, 193)" if odd else "(96, 192)",
            "INPUT.SEGMENTATION.CROP_SIZE": "(65, 65)" if odd else "(48, 96)",
            "TEST.SLIDING_WINDOW": "(65, 65)" if odd else "(0, 0)",
            "TEST.SLIDING_STRIDE": "(43, 43)",
            "TEST.EVAL_PERIOD": 0,
            "DATALOADER.NUM_WORKERS": 0,
            "SOLVER.IMS_PER_BATCH": 2,
            "SOLVER.REFERENCE_WORLD_SIZE": 1,
            "SOLVER.MAX_ITER": 1,
            "OUTPUT_DIR": str(tmp_path / "run"),
        }
        words = [str(word) for pair in tiny.items() for word in pair]
        return load_cfg(str(FOLDER / f"{config}.yaml"), [*words, *map(str, opts)])

    return make


def test_no_config_is_without_a_test():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*PAPER, *QUICK}


@pytest.mark.parametrize("config", PAPER)
def test_the_recipes_are_those_of_the_field(config):
    cfg = load_cfg(str(FOLDER / f"{config}.yaml"))
    solver, head, node = cfg.SOLVER, cfg.MODEL.SEM_SEG_HEAD, cfg.INPUT.SEGMENTATION
    assert ("custom" if "769" in config else "paper") == cfg.PRESET
    assert (solver.MAX_ITER, solver.IMS_PER_BATCH, solver.REFERENCE_WORLD_SIZE) == (40000, 8, 4)
    assert (solver.BASE_LR, solver.MOMENTUM, solver.NESTEROV) == (0.01, 0.9, False)
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM) == (5e-4, 5e-4)
    assert solver.WEIGHT_DECAY_BIAS in (None, 5e-4)
    assert (solver.LR_SCHEDULER_NAME, solver.POLY_POWER) == ("WarmupPolyLR", 0.9)
    floor = solver.BASE_LR * solver.POLY_FLOOR
    assert floor == pytest.approx(1e-4)
    assert solver.WARMUP_ITERS == 0
    assert not solver.CLIP_GRADIENTS.ENABLED
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert cfg.MODEL.RESNETS.NORM == head.NORM == "SyncBN"
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.OUTPUT_STRIDE) == (50, 8)
    assert not cfg.MODEL.RESNETS.STRIDE_IN_1X1
    assert (head.CONVS_DIM, head.DROPOUT) == (512, 0.1)
    assert (head.NUM_CLASSES, head.IGNORE_VALUE) == (19, 255)
    if config.startswith("psp"):
        assert (head.NAME, tuple(head.POOL_SCALES)) == ("PSPHead", (1, 2, 3, 6))
    else:
        assert (head.NAME, tuple(head.PSA_MASK_SIZE)) == ("PSAHead", (97, 97))
    auxiliary = cfg.MODEL.AUXILIARY_HEAD
    assert (auxiliary.IN_FEATURES, auxiliary.CONVS_DIM) == (["res4"], 256)
    assert auxiliary.LOSS_WEIGHT == 0.4
    assert (cfg.INPUT.FORMAT, cfg.INPUT.RANDOM_FLIP) == ("RGB", "horizontal")
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    assert (tuple(node.SCALE_RANGE), node.MAX_CLASS_SHARE) == ((0.5, 2.0), 0.75)
    assert cfg.TEST.EVAL_PERIOD == 4000
    sizes = (node.BASE_SIZE, node.CROP_SIZE, cfg.TEST.SLIDING_WINDOW)
    if config.endswith("769"):
        assert sizes == ((1025, 2049), (769, 769), (769, 769))
        assert (tuple(cfg.TEST.SLIDING_STRIDE), head.ALIGN_CORNERS) == ((513, 513), True)
    else:
        assert sizes == ((1024, 2048), (512, 1024), (0, 0))
        assert not head.ALIGN_CORNERS


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
    quick = load_cfg(str(FOLDER / f"{config}.yaml"))
    paper = load_cfg(str(FOLDER / f"{config.replace('quick', '40k')}.yaml"))
    assert quick.PRESET == "quick"
    changed = differing_keys([transfer_recipe(cfg.dump()) for cfg in (quick, paper)])
    assert set(changed) - SIZE_AND_LENGTH == set()


@pytest.mark.parametrize("config", [*PAPER, *QUICK])
def test_it_takes_a_step_and_is_evaluated(make_cfg, config):
    cfg = make_cfg(config, "SOLVER.BASE_LR", 0.05)
    run_transfer(cfg)
    result = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    assert result.task == f"cityscapes_{config[:6]}"
    assert result.dataset["num_images"] == 4
    metrics = result.metrics["sem_seg"]
    assert {"mIoU", "mAcc", "aAcc", "IoU-road", "IoU-bicycle"} <= set(metrics)
    assert 0 < metrics["aAcc"] < 100
    assert Path(cfg.OUTPUT_DIR, "predictions.png").stat().st_size > 10_000


def test_a_trained_model_is_evaluated_again_to_the_same_metrics(make_cfg, tmp_path):
    cfg = make_cfg("pspnet_R_50_quick", "SOLVER.MAX_ITER", 2)
    run_transfer(cfg)
    before = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json")).metrics
    final = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    other = ("MODEL.WEIGHTS", final, "OUTPUT_DIR", tmp_path / "other")
    run_evaluation(make_cfg("pspnet_R_50_quick", *other))
    after = read_result(tmp_path / "other" / "results.json").metrics
    assert after["sem_seg"] == pytest.approx(before["sem_seg"], nan_ok=True)


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
    yield name, {record["file_name"] for record in records[1:]}
    DatasetCatalog.remove(name)


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


@pytest.mark.parametrize("config", ["pspnet_R_50_quick", "psanet_R_50_quick"])
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


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(make_cfg):
    def first_batch(seed):
        cfg = make_cfg("pspnet_R_50_quick", "SEED", seed)
        seed_everything(cfg)
        return next(iter(task_of(cfg).train_loader(cfg)))

    one, again, other = (first_batch(seed) for seed in (3, 3, 4))
    for key in ("image", "sem_seg"):
        assert all(torch.equal(a[key], b[key]) for a, b in zip(one, again, strict=True))
    assert not all(
        a["image"].shape == b["image"].shape and torch.equal(a["image"], b["image"])
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(
    ("opts", "problem"),
    [
        (("MODEL.SEM_SEG_HEAD.NAME", "PSPHeed"), "'PSPHeed' is unknown; did you mean 'PSPHead'"),
        (("MODEL.META_ARCHITECTURE", "EncoderDecodr"), "did you mean 'EncoderDecoder'"),
        (("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 20), "has 19 classes, the model 20; set MODEL.SEM_SEG"),
        (("MODEL.SEM_SEG_HEAD.PSA_MASK_SIZE", "(4, 5)"), r"PSA_MASK_SIZE is \(4, 5\), expected an"),
        (("INPUT.SEGMENTATION.SCALE_RANGE", "(2.0, 0.5)"), "the lower one first"),
        (("INPUT.SEGMENTATION.CROP_SIZE", "(0, 64)"), "CROP_SIZE is .*1 and more"),
        (("INPUT.SEGMENTATION.MAX_CLASS_SHARE", 0.0), r"MAX_CLASS_SHARE is 0.0, expected in \(0"),
        (("INPUT.FORMAT", "BGR"), "INPUT.FORMAT is 'BGR', expected 'RGB'"),
        (
            ("TEST.SLIDING_WINDOW", "(32, 32)", "TEST.SLIDING_STRIDE", "(33, 32)"),
            "pixels between the windows",
        ),
        (("SOLVER.POLY_FLOOR", 1.5), r"POLY_FLOOR is 1.5, expected in \[0, 1\]"),
        (("SOLVER.IMS_PER_BATCH", 1), "sees one image at a time"),
        (("DATASETS.TEST", "('coco_2017_val',)"), "coco_2017_val"),
        (("MODEL.RESNETS.OUTPUT_STRIDE", 4), "OUTPUT_STRIDE is 4"),
        (("MODEL.AUXILIARY_HEAD.IN_FEATURES", "['res3']"), r"expected one of .*\['res4', 'res5'\]"),
    ],
)
def test_bad_input_is_refused(make_cfg, opts, problem):
    with pytest.raises(UserError, match=problem):
        run_transfer(make_cfg("pspnet_R_50_quick", *opts))


def test_another_kind_of_dataset_is_refused(make_cfg):
    cfg = make_cfg("pspnet_R_50_quick", "DATASETS.TEST", "('coco_2017_val',)")
    with pytest.raises(UserError, match="'coco_2017_val' is of kind 'coco'"):
        task_of(cfg).check(cfg)


def test_one_image_a_process_is_enough_where_statistics_are_shared(make_cfg):
    cfg = make_cfg("pspnet_R_50_quick", "SOLVER.IMS_PER_BATCH", 4, "SOLVER.REFERENCE_WORLD_SIZE", 4)
    check_batch(cfg, world_size=2)
    with pytest.raises(UserError, match="1 processes"):
        check_batch(cfg, world_size=1)
    cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    with pytest.raises(UserError, match="BN sees one image at a time"):
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
    MetadataCatalog.get(tiny_cityscapes[1]).stuff_colors = COLORS.tolist()
    (drawn,), _ = run_demo(cfg, [str(tmp_path / "black.png")], str(tmp_path / "o"), min_score=0.5)
    pixels = np.asarray(Image.open(drawn))
    assert pixels.shape == image.shape
    shades = (COLORS * 0.6).round().astype(int).tolist()
    assert all(color in shades for color in np.unique(pixels.reshape(-1, 3), axis=0).tolist())


def test_builtin_datasets_have_the_colours_of_cityscapes():
    register_all()
    road = MetadataCatalog.get("cityscapes_fine_sem_seg_val")
    assert dict(zip(road.stuff_classes, road.stuff_colors, strict=True))["road"] == [128, 64, 128]
