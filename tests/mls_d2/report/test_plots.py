"""The curves that are read, and what the pictures show; their text is text in the SVG."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mls_d2.report.curves import Curve, pretraining_runs, read_curves, smooth
from mls_d2.report.groups import group_results
from mls_d2.report.plots import plot_group, plot_pretraining
from mls_d2.results.schema import InitialWeights, LocatedResult

TOTAL, NCE, STD = "total loss (sum of all terms)", "InfoNCE loss (nats)", "feature std"
LOGGED = '{"iteration": 1, "feature_std": 0.5}\n'


def test_a_resumed_run_counts_its_later_values_and_lines_of_one_iteration_are_merged(tmp_path):
    path = tmp_path / "metrics.json"
    first = [{"iteration": i, "total_loss": float(i)} for i in (0, 10, 20)]
    again = [{"iteration": i, "total_loss": 100.0 + i} for i in (20, 30)]
    lines = [*first, {"iteration": 20, "bbox/AP": 3}, *again]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = read_curves(path)
    assert curves["total_loss"].iterations.tolist() == [0, 10, 20, 30]
    assert curves["total_loss"].values.tolist() == [0.0, 10.0, 120.0, 130.0]
    assert curves["bbox/AP"].values.tolist() == [3.0]
    assert list(read_curves(path, only="bbox/AP")) == ["bbox/AP"]
    assert read_curves(path, only="c") == {}


def test_cut_lines_are_skipped(tmp_path, caplog):
    path = tmp_path / "metrics.json"
    assert read_curves(path) == {}
    good = '{"iteration": 1, "a": 1.0, "text": "x"}\n'
    path.write_text(good + '{"iteration": 2, "a": NaN}\n{"iterat')
    np.testing.assert_equal(read_curves(path)["a"].values, [1.0, math.nan])
    assert caplog.text == ""
    path.write_text('{"iteration": 0, "a"{"iteration": 0, "a": 5.0}\n7\n{"a": 1}\n' + good)
    assert read_curves(path)["a"].values.tolist() == [1.0]
    assert "skipped 3 unreadable lines" in caplog.text
    path.write_bytes(b"\x00\xff\n")
    assert read_curves(path) == {}


def test_smoothing_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    values = rng.normal(size=23)
    values[[0, 4, 5, 22]] = np.nan
    for window in (1, 2, 3, 5, 9, 49):
        half = window // 2
        expected = []
        for i in range(len(values)):
            near = [v for v in values[max(0, i - half) : i + half + 1] if math.isfinite(v)]
            expected.append(sum(near) / len(near) if near else math.nan)
        np.testing.assert_allclose(smooth(values, window), expected, rtol=1e-12)
    np.testing.assert_allclose(smooth(np.full(7, 2.5), 5), 2.5)


def result_from(make_result, folder, *, synthetic):
    info = {"synthetic": synthetic}
    weights = InitialWeights(file=str(folder / "backbone.pth"), sha256="ab", info=info)
    return LocatedResult(Path("r"), make_result(backbone=weights))


def test_pretraining_runs_are_found_below_the_folders_and_beside_backbones(
    tmp_path, make_result, save_run
):
    for folder in ("given/mls", "given/real", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "metrics.json").write_text(LOGGED)
    (tmp_path / "given/mls/environment.json").write_text('{"synthetic": true}')
    (tmp_path / "given/other").mkdir()
    (tmp_path / "given/other/metrics.json").write_text('{"iteration": 1, "total_loss": 6.0}\n')
    save_run("coco", make_result())
    located = result_from(make_result, tmp_path / "elsewhere", synthetic=True)
    found = pretraining_runs([tmp_path / "given", tmp_path / "runs"], [located])
    assert list(found) == ["synthetic, elsewhere", "synthetic, mls", "real"]


def test_a_pretraining_run_behind_a_link_is_named_as_the_link(tmp_path, make_result):
    cell = tmp_path / "cells" / "0123456789abcdef"
    cell.mkdir(parents=True)
    (cell / "metrics.json").write_text(LOGGED)
    link = tmp_path / "suite" / "pretrain" / "mls-seed0"
    link.parent.mkdir(parents=True)
    link.symlink_to(cell)
    for synthetic, label in ((True, "synthetic, mls-seed0"), (False, "mls-seed0")):
        located = result_from(make_result, cell, synthetic=synthetic)
        for folder in (link, tmp_path / "suite"):
            assert list(pretraining_runs([folder], [located])) == [label]
    (tmp_path / "b" / "mls-seed0").mkdir(parents=True)
    (tmp_path / "b" / "mls-seed0" / "metrics.json").write_text(LOGGED)
    folders = [tmp_path / "b", link]
    assert list(pretraining_runs(folders, [])) == [str(tmp_path / "b" / "mls-seed0"), str(link)]


def curves(*names):
    return {name: Curve(np.arange(9), np.linspace(1, 0, 9)) for name in names}


@pytest.mark.parametrize(
    ("runs", "shown", "absent"),
    [
        ({"a": ("total_loss", "positive_similarity")}, (TOTAL, "cosine"), (NCE, STD)),
        ({"mls": ("total_loss", "loss_nce"), "byol": ("feature_std",)}, (TOTAL, NCE, STD), ()),
    ],
)
def test_pretraining_has_a_panel_for_each_quantity_that_a_run_logged(tmp_path, runs, shown, absent):
    path = tmp_path / "pretraining.svg"
    logged = {label: curves(*names) for label, names in runs.items()}
    plot_pretraining(logged, title="T", path=path)
    text = path.read_text()
    assert all(label in text for label in (*shown, *runs))
    assert not any(label in text for label in (*absent, "not logged"))
    assert text.count(">iteration<") == len(shown)


def test_results_of_runs_that_logged_no_loss_are_drawn_alone(tmp_path, make_result):
    (group,), _ = group_results([LocatedResult(Path("r"), make_result())])
    for logged in ({}, {Path("r"): curves("total_loss")}):
        plot_group(group, logged, title="T", path=tmp_path / "curves.svg")
        text = (tmp_path / "curves.svg").read_text()
        assert (text.count("total training loss"), text.count(">iteration<")) == (
            (1, 1) if logged else (0, 0)
        )
        assert ">percent<" in text
