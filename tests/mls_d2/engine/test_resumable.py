import pytest

from mls_d2.engine.resumable import decides


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
