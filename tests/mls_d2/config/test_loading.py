"""Reading configs, and the errors of wrong ones."""

import pytest
from detectron2.config import get_cfg as get_detectron2_cfg

import pretrain.methods  # noqa: F401 - registers the keys of the methods
from mls_d2.config.changes import flatten
from mls_d2.config.defaults import get_cfg
from mls_d2.config.loading import load_cfg


def write(folder, text, name="a.yaml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_base_file_and_command_line_are_merged_in_this_order(tmp_path):
    write(tmp_path, "MLS: {K: 7, LAMBDA: 0.1}\nSEED: 2\n", "base.yaml")
    path = write(tmp_path, "_BASE_: base.yaml\nMLS: {K: 8, LAMBDA: 0.2}\n")
    cfg = load_cfg(path, ["MLS.K", "9"])
    assert (cfg.MLS.K, cfg.MLS.LAMBDA, cfg.SEED) == (9, 0.2, 2)


def test_every_key_of_detectron2_is_still_there():
    assert flatten(get_detectron2_cfg()).keys() < flatten(get_cfg()).keys()


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("MLS: {KK: 7}\n", "unknown-key", ("'MLS.KK'", "'MLS.K'")),
        ("SOLVR: {BASE_LR: 7}\n", "unknown-key", ("did you mean 'SOLVER.BASE_LR'",)),
        ("MLS: {K: [1, 2]}\n", "bad-value", ("a.yaml",)),
        ("MLS: {K: 7\n", "bad-config", ("a.yaml",)),
        ("just words\n", "bad-config", ("a.yaml", "expected a mapping", "got str")),
        ("", "bad-config", ("a.yaml", "it is empty")),
        ("SEED: 1\nMLS: {K: 7}\nSEED: 2\n", "bad-config", ("a.yaml", "'SEED' twice", "line 3")),
        ("MLS:\n  K: 2020-13-45\n", "bad-config", ("a.yaml", "month")),
        ("MLS: !!int x\n", "bad-config", ("a.yaml",)),
        ("_BASE_: a.yaml\n", "bad-config", ("a.yaml", "leads back to itself")),
        ("MLS: &m {K: *m}\n", "bad-config", ("a.yaml",)),
        ("_BASE_: missing.yaml\n", "bad-config", ("missing.yaml",)),
        ("# Größe\nSEED: 1\n".encode("latin-1"), "bad-config", ("a.yaml", "byte 4", r"b'\xf6'")),
    ],
)
def test_wrong_files_are_refused_with_a_reason(tmp_path, text, code, words, refuses):
    with refuses(code, *words):
        load_cfg(write(tmp_path, text))


def test_files_are_utf_8_whatever_the_locale(tmp_path, monkeypatch):
    # As in the C locale without UTF-8 mode.
    monkeypatch.setattr("locale.getpreferredencoding", lambda _=True: "ascii")
    monkeypatch.setattr("locale.getencoding", lambda: "ascii", raising=False)
    path = write(tmp_path, "\ufeff# 128² pixels\nSEED: 3\nOUTPUT_DIR: ö\n")
    assert (load_cfg(path).SEED, load_cfg(path).OUTPUT_DIR) == (3, "ö")


@pytest.mark.parametrize(
    ("opts", "code", "word"),
    [
        (["MLS.K"], "bad-option", "MLS.K"),
        (["MLS.LAMDA", "1"], "unknown-key", "did you mean 'MLS.LAMBDA'"),
        (["MLS.K", "many"], "bad-value", "MLS.K many"),
        (["MLS.K", "7.5"], "bad-value", "MLS.K 7.5"),
        (["MLS.K", "5", "--resume"], "bad-option", "--resume"),
    ],
)
def test_wrong_options_are_refused_with_a_reason(opts, code, word, refuses):
    with refuses(code, word):
        load_cfg(None, opts)


def test_a_missing_file_names_its_neighbours(tmp_path, refuses):
    write(tmp_path, "MLS: {K: 7}\n", "mls_quick.yaml")
    with refuses("missing-file", "did you mean 'mls_quick.yaml'"):
        load_cfg(str(tmp_path / "mls_quik.yaml"))


def test_whole_numbers_are_valid_for_fractions():
    cfg = load_cfg(None, ["PRETRAIN.EPOCHS", "3", "SOLVER.BASE_LR", "1", "MLS.K", "7"])
    assert (cfg.PRETRAIN.EPOCHS, cfg.SOLVER.BASE_LR, cfg.MLS.K) == (3.0, 1.0, 7)
    assert isinstance(cfg.PRETRAIN.EPOCHS, float)
