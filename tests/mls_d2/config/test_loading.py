"""Reading configs, and what is said about wrong ones."""

import pytest

from mls_d2.config.defaults import get_cfg
from mls_d2.config.loading import all_keys, load_cfg
from mls_d2.core.errors import UserError


def write(folder, text, name="a.yaml"):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_file_and_the_command_line_are_merged_in_this_order(tmp_path):
    path = write(tmp_path, "MLS: {K: 7, LAMBDA: 0.1}\n")
    cfg = load_cfg(path, ["MLS.K", "9"])
    assert (cfg.MLS.K, cfg.MLS.LAMBDA) == (9, 0.1)


def test_a_base_is_read_first(tmp_path):
    write(tmp_path, "MLS: {K: 7, LAMBDA: 0.1}\n", "base.yaml")
    cfg = load_cfg(write(tmp_path, "_BASE_: base.yaml\nMLS: {K: 8}\n"))
    assert (cfg.MLS.K, cfg.MLS.LAMBDA) == (8, 0.1)


def test_every_key_of_detectron2_is_still_there():
    from detectron2.config import get_cfg as get_detectron2_cfg

    assert set(all_keys(get_detectron2_cfg())) < set(all_keys(get_cfg()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MLS: {KK: 7}\n", "unknown config key 'MLS.KK'; did you mean .*'MLS.K'"),
        (
            "SOLVR: {BASE_LR: 7}\n",
            "unknown config key 'SOLVR.BASE_LR'; did you mean 'SOLVER.BASE_LR'",
        ),
        ("MLS: {K: [1, 2]}\n", "a.yaml"),
        ("MLS: {K: 7\n", "not a readable YAML config"),
        ("just words\n", "not a readable YAML config"),
        ("_BASE_: missing.yaml\n", "not a readable YAML config"),
    ],
)
def test_wrong_files_are_refused_with_a_reason(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load_cfg(write(tmp_path, text))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MLS.K"], "KEY VALUE pairs"),
        (["MLS.LAMDA", "1"], "did you mean 'MLS.LAMBDA'"),
        (["MLS.K", "many"], "command line: MLS.K many"),
        (["MLS.K", "5", "--resume"], "--resume comes after KEY VALUE pairs: options go before"),
    ],
)
def test_wrong_options_are_refused_with_a_reason(opts, message):
    with pytest.raises(UserError, match=message):
        load_cfg(None, opts)


def test_a_missing_file_names_its_neighbours(tmp_path):
    write(tmp_path, "MLS: {K: 7}\n", "mls_quick.yaml")
    with pytest.raises(UserError, match="did you mean 'mls_quick.yaml'"):
        load_cfg(str(tmp_path / "mls_quik.yaml"))


def test_whole_numbers_may_be_given_where_fractions_are_allowed():
    cfg = load_cfg(None, ["PRETRAIN.EPOCHS", "3", "SOLVER.BASE_LR", "1", "MLS.K", "7"])
    assert (cfg.PRETRAIN.EPOCHS, cfg.SOLVER.BASE_LR, cfg.MLS.K) == (3.0, 1.0, 7)
    assert isinstance(cfg.PRETRAIN.EPOCHS, float)
    with pytest.raises(UserError, match="MLS.K 7.5"):
        load_cfg(None, ["MLS.K", "7.5"])
