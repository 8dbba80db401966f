"""Every value that pretraining reads is checked, with a message that names it."""

import pytest
import torch

from mls_d2.config.changes import flatten
from mls_d2.config.loading import load_cfg, value_at
from pretrain.checks import RULES, check_config


@pytest.fixture
def config(request):
    path = request.config.rootpath / "pretrain/configs/mocov2_coco_400ep.yaml"
    return lambda *words: load_cfg(str(path), ["MODEL.DEVICE", "cpu", *words])


def test_the_defaults_pass_and_every_rule_has_a_key(config):
    cfg = config()
    check_config(cfg)
    assert RULES.keys() <= flatten(cfg).keys()
    assert value_at(cfg, "PRETRAIN.AUGMENT.CROP_SIZE") == 224


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("PRETRAIN.WARMUP_EPOCHS", "400", "must be in [0, EPOCHS), got 400.0"),
        ("PRETRAIN.LOG_PERIOD", "0", "must be >= 1, got 0"),
        ("PRETRAIN.MAX_BROKEN_SHARE", "1.5", "must be in [0, 1], got 1.5"),
        ("PRETRAIN.AUGMENT.CROP_SIZE", "31", "must be >= 32 pixels, got 31"),
        ("PRETRAIN.AUGMENT.CROP_SCALE", "(0.2,)", "must be 0 < low <= high <= 1, got (0.2,)"),
        ("PRETRAIN.AUGMENT.CROP_SCALE", "(0.2, 1.1)", "must be 0 < low <= high <= 1, got"),
        ("PRETRAIN.AUGMENT.BLUR_SIGMA", "('a', 'b')", "must be 0 < low <= high, got"),
        ("PRETRAIN.AUGMENT.LOCAL.BLUR_PROB", "(0.1, 0.2, 1.1)", "must be in [0, 1], or as many"),
        ("PRETRAIN.AUGMENT.HUE", "0.6", "must be in [0, 0.5] of a turn, got 0.6"),
        ("SOLVER.MOMENTUM", "1.0", "must be in [0, 1), got 1.0"),
        ("SOLVER.WEIGHT_DECAY", "-0.1", "must be >= 0, got -0.1"),
        ("SOLVER.CHECKPOINT_PERIOD", "-5", "must be >= 0, got -5"),
        ("DATALOADER.NUM_WORKERS", "-1", "must be >= 0, got -1"),
        ("MODEL.DEVICE", "gpu", "must be 'cpu', 'cuda' or 'cuda:N'"),
        ("MODEL.BACKBONE.NAME", "resnet", "must be the name of a registered backbone"),
        ("MODEL.BACKBONE.FREEZE_AT", "2", "must be 0: all is trained, got 2"),
        ("MODEL.RESNETS.DEPTH", "49", "must be one of 18, 34, 50, 101, 152, got 49"),
        ("MODEL.PIXEL_MEAN", "[1.0, 2.0]", "must be three numbers, of R, G and B"),
        ("MODEL.PIXEL_STD", "[1.0, 0.0, 1.0]", "must be three numbers > 0, of R, G and B"),
        ("SEED", str(2**31), "must be below 2**31"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(config, key, value, message, refuses):
    with refuses("bad-value", f"{key} {message}"):
        check_config(config(key, value))


@pytest.mark.parametrize(("value", "fine"), [("(0.1, 1)", True), ("(0.1, 0.2, 0.3)", False)])
def test_parts_of_local_views_divide_them(config, value, fine, refuses):
    words = ("PRETRAIN.METHOD", "mls", "PRETRAIN.AUGMENT.LOCAL_CROPS", "4")
    cfg = config(*words, "PRETRAIN.AUGMENT.LOCAL.SOLARIZE_PROB", value)
    if fine:
        check_config(cfg)
    else:
        with refuses("bad-value", "divide 4 local views"):
            check_config(cfg)


def test_what_is_no_number_is_refused(config, refuses):
    cfg = config()
    cfg.SOLVER.BASE_LR = float("nan")
    with refuses("bad-value", "SOLVER.BASE_LR must be > 0, got nan"):
        check_config(cfg)


def test_a_gpu_that_is_not_there_is_refused(config, monkeypatch, refuses):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_config(config("MODEL.DEVICE", "cuda:1"))
    with refuses("bad-value", "'cuda:N' of a GPU that is there, got 'cuda:2'"):
        check_config(config("MODEL.DEVICE", "cuda:2"))
