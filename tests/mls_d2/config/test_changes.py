import pytest

from mls_d2.config.changes import config_changes, decides
from mls_d2.config.defaults import get_cfg
from mls_d2.core.errors import UserError


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("SOLVER.BASE_LR", True),
        ("PRETRAIN.EPOCHS", True),
        ("PRETRAIN.LABEL_QUALITY", False),
        ("PRETRAIN.ONLINE_EVAL", False),
        ("PRETRAIN.ONLINE_EVAL.PERIOD", False),
        # Only the beginning of its name is one of those.
        ("PRETRAIN.ONLINE_EVALUATOR", True),
        ("VERSION", False),
    ],
)
def test_a_key_decides_unless_it_or_its_section_is_known_not_to(key, expected):
    assert decides(key) is expected


def test_config_changes_names_keys_with_both_values():
    cfg = get_cfg()
    saved = cfg.dump()
    assert config_changes(saved, cfg.dump()) == []
    cfg.SOLVER.BASE_LR = 0.5
    cfg.SOLVER.STEPS = (1, 2)
    cfg.OUTPUT_DIR = "elsewhere"
    assert config_changes(saved, cfg.dump()) == [
        "SOLVER.BASE_LR: was 0.001, is 0.5",
        "SOLVER.STEPS: was [30000], is [1, 2]",
    ]
    assert config_changes(saved, cfg.dump(), ignore=("SOLVER",)) == [
        "OUTPUT_DIR: was './output', is 'elsewhere'"
    ]


def test_config_changes_sees_keys_that_one_side_lacks():
    cfg = get_cfg()
    saved = cfg.dump().replace("PRESET: custom\n", "")
    assert config_changes(saved, cfg.dump()) == ["PRESET: was '(unset)', is 'custom'"]


def test_a_damaged_saved_config_is_a_user_error():
    with pytest.raises(UserError, match="damaged"):
        config_changes("- [", get_cfg().dump())
    with pytest.raises(UserError, match="damaged"):
        config_changes("just text", get_cfg().dump())
