import pytest
import yaml

from mls_d2.config.recipes import differing_keys, pretraining_recipe, transfer_recipe
from mls_d2.core.errors import UserError


def test_a_transfer_recipe_is_what_decides_the_result():
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


def test_a_pretraining_recipe_keeps_the_method_and_drops_seed_and_place():
    places = {"SEED": 3, "OUTPUT_DIR": "x", "VERSION": 2, "CUDNN_BENCHMARK": True}
    config = {"MLS": {"K": 20}, "DATALOADER": {"NUM_WORKERS": 2}, **places}
    assert pretraining_recipe(yaml.safe_dump(config)) == {"MLS.K": "20"}


def test_what_only_watches_a_pretraining_is_not_its_recipe():
    watching = {
        "EPOCHS": 400,
        "ONLINE_EVAL": {"PERIOD": 1.0},
        "LABEL_QUALITY": True,
        "PERMANENT_PERIOD": 50,
    }
    assert pretraining_recipe(yaml.safe_dump({"PRETRAIN": watching})) == {"PRETRAIN.EPOCHS": "400"}


def test_keys_differ_by_value_or_presence():
    recipes = [{"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "c": "1"}, {"a": "1", "c": "1"}]
    assert differing_keys(recipes) == ["b"]
    assert differing_keys(recipes[:1]) == []
    assert differing_keys([]) == []


@pytest.mark.parametrize("config", ["a: [", "- 1", "", "!!python/object:os.system {}"])
def test_an_unreadable_config_is_an_error(config):
    with pytest.raises(UserError, match="its config is not"):
        transfer_recipe(config)
