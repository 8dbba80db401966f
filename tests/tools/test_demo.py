"""The command line of tools/demo.py."""

import sys

import pytest

from tests.mls_d2.conftest import QUICK


@pytest.fixture
def run(load_tool, monkeypatch, capsys):
    """Run the tool with a stand-in for the drawing; return exit code, its arguments and output."""
    tool, calls = load_tool("demo"), []

    def draw(cfg, inputs, folder, *, min_score):
        calls.append((cfg, inputs, folder, min_score))
        bad = [f"{name} is no image" for name in inputs if "bad" in name]
        return [f"{folder}/{name}.png" for name in inputs if "bad" not in name], bad

    monkeypatch.setattr(tool, "run_demo", draw)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, words)])
        return tool.main(), calls.pop(), capsys.readouterr()

    return call


def test_keys_may_stand_before_the_options_and_after(run):
    options = ("--input", "a", "b", "--output", "o", "--min-score", "0.3")
    before = run("--config-file", QUICK, "MODEL.WEIGHTS", "x.pth", *options)
    after = run("--config-file", QUICK, *options, "MODEL.WEIGHTS", "x.pth")
    for code, (cfg, inputs, folder, min_score), output in (before, after):
        assert (code, inputs, folder, min_score) == (0, ["a", "b"], "o", 0.3)
        assert cfg.MODEL.WEIGHTS == "x.pth"
        assert output.out == "o/a.png\no/b.png\n"


def test_the_weights_are_the_runs_own_unless_given(run):
    _, (cfg, *_), _ = run("--config-file", QUICK, "--input", "a", "--output", "o")
    assert str(QUICK.parent / "model_final.pth") == cfg.MODEL.WEIGHTS


def test_images_that_were_left_out_are_an_exit_code(run):
    code, _, output = run("--config-file", QUICK, "--input", "a", "bad", "--output", "o")
    assert code == 2
    assert output.out == "o/a.png\n"
    assert output.err == "left out: bad is no image\n"
