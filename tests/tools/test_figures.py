"""tools/figures.py: which runs it draws, and what it leaves out."""

import json

import pytest

from mls_d2.core.errors import UserError


@pytest.fixture
def tool(load_tool):
    return load_tool("figures")


@pytest.fixture
def runs(tmp_path):
    """Two finished runs of MLS and one of MoCo-v2, without checkpoints."""
    for name, method in (("a", "mls"), ("b", "mls"), ("c", "mocov2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "backbone.pth").write_bytes(b"")
        (tmp_path / name / "config.yaml").write_text(json.dumps({"PRETRAIN": {"METHOD": method}}))
    return tmp_path


def test_every_run_of_the_method_is_drawn_once_with_the_seed(tool, runs, monkeypatch, capsys):
    (runs / "link").symlink_to(runs / "a")
    calls = []

    def draw(run, out, *, seed):
        calls.append((run.resolve().name, out, seed))
        return [out / "figure3.svg"]

    monkeypatch.setattr(tool, "draw_figures", draw)
    tool.main([str(runs), "--seed", "3"])
    folders = [runs / name / "figures" for name in ("a", "b")]
    assert calls == [("a", folders[0], 3), ("b", folders[1], 3)]
    shown = capsys.readouterr().out.split()
    assert shown == [str(folder / "figure3.svg") for folder in folders]


def test_a_run_that_lacks_something_is_named_and_the_others_are_drawn(
    tool, runs, monkeypatch, capsys
):
    def draw(run, out, *, seed):
        if run.name == "a":
            raise UserError("no checkpoint", code="missing-file")
        return [out / "figure3.svg"]

    monkeypatch.setattr(tool, "draw_figures", draw)
    tool.main([str(runs)])
    shown = capsys.readouterr()
    assert shown.out.split() == [str(runs / "b" / "figures" / "figure3.svg")]
    assert f"left out {runs / 'a'}: no checkpoint" in shown.err


def test_nothing_to_draw_is_an_error(tool, runs, refuses):
    with refuses("missing-file", "has no checkpoint"):  # of the first run: it has no checkpoint
        tool.main([str(runs)])
    with refuses("missing-file", "no finished pretraining of 'byol'"):
        tool.main([str(runs), "--method", "byol"])
