"""Preset onegpu: its rule by hand, and that every config that it makes is valid."""

import pytest

from mls_d2.config.loading import load_cfg
from mls_d2.config.recipes import mark_if_changed
from mls_d2.config.rules import value_at
from mls_d2.runner.suite import build_suite, method_configs, task_configs
from mls_d2.transfer.segmentation import check_segmentation
from pretrain.checks import check_config
from pretrain.methods import method_class
from tests.conftest import REPOSITORY
from tests.mls_d2.conftest import load_with

S, A = "SOLVER", "PRETRAIN.AUGMENT"


def suite_of(**content):
    return build_suite({"preset": "onegpu"} | content, REPOSITORY)


def cfg_of(entry, *late):
    return load_with(entry.config, entry.opts, late)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # A quarter of 400 epochs, half of batch 256 and of lr 0.3, BatchNorm of 32 images.
        ("mls", {
            f"{S}.IMS_PER_BATCH": 128, f"{S}.BASE_LR": 0.15, f"{S}.REFERENCE_WORLD_SIZE": 0,
            f"{S}.AMP.ENABLED": True, f"{S}.CHECKPOINT_PERIOD": 9240, "PRETRAIN.EPOCHS": 100,
            "PRETRAIN.WARMUP_EPOCHS": 0, "PRETRAIN.BATCH_NORM_GROUPS": 4, f"{A}.CROP_SIZE": 160,
            "MOCO.DICTIONARY_SIZE": 4096, "MLS.K": 20,
        }),
        ("byol", {
            f"{S}.IMS_PER_BATCH": 128, f"{S}.BASE_LR": 0.1,
            "PRETRAIN.WARMUP_EPOCHS": 1, "PRETRAIN.BATCH_NORM_GROUPS": 1,
        }),
        ("swav", {f"{A}.CROP_SIZE": 160, f"{A}.LOCAL_SIZE": 64}),
        ("mls-800ep", {"PRETRAIN.EPOCHS": 200, f"{S}.BASE_LR": 0.15}),
    ],
)  # fmt: skip
def test_pretraining_follows_the_rule(method, expected):
    (entry,) = suite_of(methods=[method]).methods
    cfg = cfg_of(entry)
    assert {key: value_at(cfg, key) for key in expected} == pytest.approx(expected)
    assert cfg.PRESET == "onegpu"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        # An eighth of 90,000 iterations of 16 images, in batches of 8.
        ("coco", {
            f"{S}.IMS_PER_BATCH": 8, f"{S}.BASE_LR": 0.01, f"{S}.MAX_ITER": 22500,
            f"{S}.STEPS": (15000, 20000), f"{S}.WARMUP_ITERS": 250,
            "INPUT.MIN_SIZE_TRAIN": (448, 480, 512, 512, 544, 576), "INPUT.MAX_SIZE_TRAIN": 960,
            "INPUT.MIN_SIZE_TEST": 576, "INPUT.MAX_SIZE_TEST": 960,
        }),
        ("voc", {f"{S}.MAX_ITER": 6000, f"{S}.STEPS": (4500, 5500), f"{S}.WARMUP_ITERS": 25}),
        ("cityscapes-psanet", {
            f"{S}.IMS_PER_BATCH": 8, f"{S}.BASE_LR": 0.01, f"{S}.MAX_ITER": 5000,
            "INPUT.SEGMENTATION.CROP_SIZE": (352, 736),
        }),
        ("cub200-finetune", {
            f"{S}.IMS_PER_BATCH": 64, f"{S}.MAX_ITER": 1405,
            "CLASSIFICATION.CROP_SIZE": 160, "CLASSIFICATION.RESIZE": 192,
        }),
        ("voc2007-svm", {"CLASSIFICATION.CROP_SIZE": 224, "MODEL.CLASSIFIER.POOL_SIZE": 6}),
    ],
)  # fmt: skip
def test_fine_tuning_follows_the_rule(task, expected):
    (entry,) = suite_of(methods=["random"], tasks=[task]).tasks
    cfg = cfg_of(entry)
    assert {key: value_at(cfg, key) for key in expected} == expected
    assert cfg.PRESET == "onegpu"
    assert entry.max_gpus in (None, 1)


def test_every_method_and_task_has_a_valid_config():
    names = method_configs(REPOSITORY, "onegpu")
    assert names.keys() == method_configs(REPOSITORY, "paper").keys()
    for entry in suite_of(methods=list(names)).methods:
        cfg = cfg_of(entry, "MODEL.DEVICE", "cpu")
        check_config(cfg)
        method_class(cfg).check_config(cfg)
    names = task_configs(REPOSITORY, "onegpu")
    assert names.keys() == task_configs(REPOSITORY, "paper").keys()
    assert [task.name for task in names["all"]][:3] == ["coco", "coco-c4", "voc"]
    for entry in suite_of(methods=["random"], tasks=["all"]).tasks:
        cfg = cfg_of(entry)
        assert not cfg.SOLVER.STEPS or cfg.SOLVER.STEPS[-1] < cfg.SOLVER.MAX_ITER, entry.name
        if entry.name.startswith("cityscapes"):
            check_segmentation(cfg)


def test_options_change_the_rule_and_the_preset_stays():
    item = {"name": "m", "method": "mls", "opts": {"PRETRAIN.EPOCHS": 7.0}}
    (entry,) = suite_of(methods=[item]).methods
    cfg = cfg_of(entry)
    assert (cfg.PRETRAIN.EPOCHS, cfg.SOLVER.IMS_PER_BATCH) == (7, 128)
    mark_if_changed(cfg, load_cfg(str(entry.config)), "pretraining")
    assert cfg.PRESET == "onegpu"


def test_a_config_of_the_user_is_taken_as_it_is_and_several_gpus_are_refused(refuses):
    path = str(REPOSITORY / "pretrain/configs/mls_coco_400ep.yaml")
    (entry,) = suite_of(methods=[{"name": "mine", "config": path}]).methods
    assert entry.opts == {}
    with refuses("bad-value"):
        suite_of(methods=["mls"], num_gpus=2)
