"""The published recipes, value by value."""

from pathlib import Path

import pytest

from mls_d2.config.loading import load_cfg
from pretrain.checks import check_config
from pretrain.methods import METHODS
from pretrain.run import run_length

FOLDER = Path(__file__).resolve().parents[2] / "pretrain" / "configs"
COCO_IMAGES = 118_287


def load(name: str):
    cfg = load_cfg(str(FOLDER / f"{name}.yaml"))
    check_config(cfg)
    METHODS.get(cfg.PRETRAIN.METHOD).check_config(cfg)
    return cfg


@pytest.mark.parametrize("length", ["400", "800"])
@pytest.mark.parametrize("method", ["mls", "mocov2"])
def test_the_paper_configs_state_the_paper(method, length):
    cfg = load(f"{method}_coco_{length}ep")
    assert (method, float(length)) == (cfg.PRETRAIN.METHOD, cfg.PRETRAIN.EPOCHS)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH) == (0.3, 256)
    assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM) == (1e-4, 1e-4)
    assert (cfg.MOCO.MOMENTUM, cfg.MOCO.TEMPERATURE, cfg.MOCO.DICTIONARY_SIZE) == (0.995, 0.2, 4096)
    assert (cfg.MLS.K, cfg.MLS.LAMBDA, cfg.MLS.WARMUP) == (20, 0.5, 0.0)
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == (50, False)
    assert run_length(cfg, COCO_IMAGES).max_iter == 462 * int(length)


def test_the_fields_moco_differs_from_the_papers_baseline_in_its_dictionary_and_momentum():
    cfg, base = load("mocov2_field_coco_800ep"), load("mocov2_coco_800ep")
    assert (cfg.MOCO.MOMENTUM, cfg.MOCO.DICTIONARY_SIZE, cfg.MOCO.PROJECTOR_OUT_DIM) == (
        0.999,
        65536,
        128,
    )
    base.MOCO, base.OUTPUT_DIR = cfg.MOCO, cfg.OUTPUT_DIR
    assert cfg == base


VARIANTS = {"barlowtwins_small": "barlowtwins", "mocov2_field": "mocov2"}


@pytest.mark.parametrize("name", sorted({*METHODS.names(), *VARIANTS}))
def test_presets_lengths_and_folders_agree_with_the_names(name):
    kinds = ("quick", "coco_400ep", "coco_800ep")
    for kind in kinds[1:] if name == "mocov2_field" else kinds:
        cfg = load(f"{name}_{kind}")
        assert VARIANTS.get(name, name) == cfg.PRETRAIN.METHOD
        assert ("quick" if kind == "quick" else "paper") == cfg.PRESET
        if kind != "quick":
            assert float(kind[5:8]) == cfg.PRETRAIN.EPOCHS
        tail = "-800ep" if kind == "coco_800ep" else ""
        folder = "quick" if kind == "quick" else "paper"
        assert f"output/{folder}/{name.replace('_', '-')}{tail}" == cfg.OUTPUT_DIR


@pytest.mark.parametrize(
    ("name", "batch", "rate", "decay", "warmup", "optimizer", "norm"),
    [
        ("densecl", 256, 0.3, 1e-4, 0, "sgd", "shuffled"),
        ("revisiting", 256, 0.3, 1e-4, 0, "sgd", "shuffled"),
        ("byol", 512, 0.4, 1e-4, 4, "sgd", "sync"),
        ("simclr", 512, 0.6, 1e-6, 10, "lars", "sync"),
        ("simsiam", 512, 0.1, 1e-4, 0, "sgd", "sync"),
        ("barlowtwins", 512, 0.4, 1.5e-6, 10, "lars", "sync"),
        ("orl", 512, 0.4, 1e-4, 4, "sgd", "sync"),
        ("soco", 512, 2.0, 1e-5, 10, "lars", "sync"),
    ],
)
def test_the_configs_of_other_methods_state_what_the_field_publishes(
    name, batch, rate, decay, warmup, optimizer, norm
):
    cfg = load(f"{name}_coco_800ep")
    assert (batch, rate) == (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR)
    assert (decay, warmup) == (cfg.SOLVER.WEIGHT_DECAY, cfg.PRETRAIN.WARMUP_EPOCHS)
    assert (optimizer, norm) == (cfg.PRETRAIN.OPTIMIZER, cfg.PRETRAIN.BATCH_NORM)
    without = cfg.SOLVER.WEIGHT_DECAY_NORM == 0 and cfg.SOLVER.WEIGHT_DECAY_BIAS == 0
    assert without == (optimizer == "lars")
    assert run_length(cfg, COCO_IMAGES).max_iter == {256: 369_600, 512: 184_800}[batch]
    assert round(cfg.SOLVER.CHECKPOINT_PERIOD * batch / 256) == 4620


ABLATIONS = {
    "table6_none": ("MLS.LOSS", "none"), "table6_knn": ("MLS.LOSS", "knn"),
    "table6_bce_pos": ("MLS.LOSS", "bce_pos"), "table7_g": ("MLS.DICTIONARIES", "g"),
    "table7_z": ("MLS.DICTIONARIES", "z"), "table8_k1": ("MLS.K", 1), "table8_k5": ("MLS.K", 5),
    "table8_k40": ("MLS.K", 40), "figure5_d1024": ("MOCO.DICTIONARY_SIZE", 1024),
    "figure5_d2048": ("MOCO.DICTIONARY_SIZE", 2048),
    "figure5_d8192": ("MOCO.DICTIONARY_SIZE", 8192),
    "figure5_d16384": ("MOCO.DICTIONARY_SIZE", 16384), "figure5_lambda0.1": ("MLS.LAMBDA", 0.1),
    "figure5_lambda0.2": ("MLS.LAMBDA", 0.2), "figure5_lambda1.0": ("MLS.LAMBDA", 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_key_of_mls(name):
    base, cfg = load("mls_coco_400ep"), load(f"ablations/{name}")
    assert cfg.OUTPUT_DIR.endswith(f"/{name}")
    key, value = ABLATIONS[name]
    node, leaf = key.split(".")
    assert cfg[node][leaf] == value
    cfg[node][leaf], cfg.OUTPUT_DIR = base[node][leaf], base.OUTPUT_DIR
    assert cfg == base


def test_every_ablation_is_tested():
    assert {p.stem for p in FOLDER.glob("ablations/*.yaml")} == {*ABLATIONS, "remedy_warmup"}
    cfg = load("ablations/remedy_warmup")
    assert cfg.MLS.WARMUP > 0
    assert not cfg.MLS.KEEP_NCE
