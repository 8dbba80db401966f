"""What differs between configs: what a resume allows, and whether a recipe is the published one."""

import pytest
import yaml

import pretrain.methods  # noqa: F401 - registers the keys of the methods
from mls_d2.config.changes import affects_results, config_changes
from mls_d2.config.defaults import get_cfg
from mls_d2.config.loading import load_cfg
from mls_d2.config.recipes import (
    changed_keys,
    differing_keys,
    mark_if_changed,
    pretraining_recipe,
    transfer_recipe,
)
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "transfer_configs"
PAPER = str(CONFIGS / "voc" / "faster_rcnn_R_50_C4_24k.yaml")
QUICK = str(CONFIGS / "voc" / "faster_rcnn_R_50_C4_quick.yaml")
COCO = str(CONFIGS / "coco" / "mask_rcnn_R_50_FPN_1x.yaml")
BIRDS = str(CONFIGS / "classification" / "cub200_finetune.yaml")
PRETRAIN = str(REPOSITORY / "pretrain" / "configs" / "mls_coco_400ep.yaml")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("SOLVER.BASE_LR", True),
        ("PRETRAIN.LABEL_QUALITY", False),
        ("PRETRAIN.ONLINE_EVAL.PERIOD", False),
        # Only the beginning of its name is one of those.
        ("PRETRAIN.ONLINE_EVALUATOR", True),
    ],
)
def test_a_key_affects_results_unless_it_or_its_section_is_listed(key, expected):
    assert affects_results(key) is expected


def test_config_changes_names_keys_with_both_values(refuses):
    cfg = get_cfg()
    saved = cfg.dump()
    assert config_changes(saved, cfg.dump()) == []
    cfg.SOLVER.BASE_LR = 0.5
    cfg.OUTPUT_DIR = "elsewhere"
    expected = ["PRESET: was '(unset)', is 'custom'", "SOLVER.BASE_LR: was 0.001, is 0.5"]
    assert config_changes(saved.replace("PRESET: custom\n", ""), cfg.dump()) == expected
    moved = ["OUTPUT_DIR: was './output', is 'elsewhere'"]
    assert config_changes(saved, cfg.dump(), ignore=("SOLVER",)) == moved
    for damaged in ("- [", "just text"):
        with refuses("damaged-file"):
            config_changes(damaged, cfg.dump())


def test_a_transfer_recipe_is_what_affects_the_result():
    config = {
        "MODEL": {"WEIGHTS": "a.pth", "DEVICE": "cpu", "PIXEL_MEAN": [0.0], "MASK_ON": True},
        "INPUT": {"FORMAT": "RGB", "MIN_SIZE_TRAIN": [640, 800]},
        "SOLVER": {"MAX_ITER": 300, "CHECKPOINT_PERIOD": 10},
        "CLASSIFICATION": {"CROP_SIZE": 224},
        "DATALOADER": {"NUM_WORKERS": 4, "FILTER_EMPTY_ANNOTATIONS": True},
        "MLS": {"K": 20},
        "SEED": 3,
        "OUTPUT_DIR": "somewhere",
    }
    assert transfer_recipe(yaml.safe_dump(config)) == {
        "MODEL.MASK_ON": "True",
        "INPUT.MIN_SIZE_TRAIN": "[640, 800]",
        "SOLVER.MAX_ITER": "300",
        "CLASSIFICATION.CROP_SIZE": "224",
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "True",
    }


def test_a_pretraining_recipe_has_the_method_but_not_seed_place_and_monitoring():
    places = {"SEED": 3, "OUTPUT_DIR": "x", "VERSION": 2, "CUDNN_BENCHMARK": True}
    watching = {"ONLINE_EVAL": {"PERIOD": 1.0}, "LABEL_QUALITY": True, "PERMANENT_PERIOD": 50}
    config = {"MLS": {"K": 20}, "DATALOADER": {"NUM_WORKERS": 2}, **places}
    config["PRETRAIN"] = {"EPOCHS": 400, **watching}
    expected = {"MLS.K": "20", "PRETRAIN.EPOCHS": "400"}
    assert pretraining_recipe(yaml.safe_dump(config)) == expected


def test_keys_differ_by_value_or_presence():
    recipes = [{"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "c": "1"}, {"a": "1", "c": "1"}]
    assert differing_keys(recipes) == ["b"]
    assert differing_keys(recipes[:1]) == []
    assert differing_keys([]) == []


@pytest.mark.parametrize("config", ["a: [", "- 1", "", "!!python/object:os.system {}"])
def test_an_unreadable_config_is_refused(config, refuses):
    with refuses("bad-config"):
        transfer_recipe(config)


def preset_with(*opts, file=PAPER, phase="transfer"):
    cfg, published = load_cfg(file, opts), load_cfg(file)
    published.PRESET = load_cfg(file).PRESET
    mark_if_changed(cfg, published, phase)
    return cfg.PRESET


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("SEED", "3", "OUTPUT_DIR", "o", "MODEL.WEIGHTS", "b.pth", "MODEL.DEVICE", "cpu"),
        ("SOLVER.CHECKPOINT_PERIOD", "10", "TEST.EVAL_PERIOD", "10", "DATALOADER.NUM_WORKERS", "1"),
        ("SOLVER.MAX_ITER", "24000"),
        ("INPUT.FORMAT", "BGR"),
    ],
)
def test_options_outside_the_recipe_leave_it_the_papers(opts):
    assert preset_with(*opts) == "paper"


@pytest.mark.parametrize(
    ("file", "opts"),
    [
        (PAPER, ("SOLVER.MAX_ITER", "100")),
        (PAPER, ("SOLVER.BASE_LR", "0.1", "PRESET", "paper")),
        (PAPER, ("DATASETS.TEST", "('voc_2007_val',)")),
        (PAPER, ("TEST.PRECISE_BN.ENABLED", "False")),
        (COCO, ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False")),
        (BIRDS, ("CLASSIFICATION.CROP_SIZE", "448")),
    ],
)
def test_options_of_the_recipe_make_it_custom(file, opts, caplog):
    assert preset_with(*opts, file=file) == "custom"
    assert f"{opts[0]} differ from the recipe" in caplog.text


def test_pretraining_recipes_are_marked_too_and_other_presets_stay():
    watching = ("PRETRAIN.ONLINE_EVAL.PERIOD", "5", "SEED", "3", "PRESET", "paper")
    paper, published = load_cfg(PRETRAIN, watching).dump(), load_cfg(PRETRAIN).dump()
    assert changed_keys(paper, published, "pretraining") == []
    other = load_cfg(PRETRAIN, ("MLS.K", "9", "PRETRAIN.EPOCHS", "9")).dump()
    assert changed_keys(other, published, "pretraining") == ["MLS.K", "PRETRAIN.EPOCHS"]
    assert preset_with("MLS.K", "9", "PRESET", "paper", file=PRETRAIN, phase="pretraining") == (
        "custom"
    )
    assert preset_with("SOLVER.MAX_ITER", "9", file=QUICK) == "quick"
