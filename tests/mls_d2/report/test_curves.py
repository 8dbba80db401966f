import json
import math
from pathlib import Path

import numpy as np

from mls_d2.report.curves import pretraining_folders, read_curves, smooth
from mls_d2.results.schema import LocatedResult


def test_a_resumed_run_counts_its_later_values(tmp_path):
    path = tmp_path / "metrics.json"
    first = [{"iteration": i, "total_loss": float(i)} for i in (0, 10, 20)]
    again = [{"iteration": i, "total_loss": 100.0 + i} for i in (20, 30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in first + again))
    curve = read_curves(path)["total_loss"]
    assert curve.iterations.tolist() == [0, 10, 20, 30]
    assert curve.values.tolist() == [0.0, 10.0, 120.0, 130.0]


def test_lines_of_one_iteration_are_merged(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 9, "bbox/AP": 3.0}\n{"iteration": 9, "total_loss": 1}\n')
    curves = read_curves(path)
    assert set(curves) == {"bbox/AP", "total_loss"}
    assert curves["bbox/AP"].values.tolist() == [3.0]


def test_one_metric_may_be_read_alone(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 9, "a": 3.0, "b": 1}\n{"iteration": 19, "b": 2}\n')
    curves = read_curves(path, only="a")
    assert list(curves) == ["a"]
    assert curves["a"].iterations.tolist() == [9]
    assert read_curves(path, only="c") == {}


def test_cut_lines_are_skipped(tmp_path, caplog):
    path = tmp_path / "metrics.json"
    good = '{"iteration": 1, "a": 1.0, "text": "x"}\n'
    path.write_text(good + '{"iteration": 2, "a": 2.0}\n{"iterat')
    assert read_curves(path)["a"].values.tolist() == [1.0, 2.0]
    assert caplog.text == ""
    path.write_text('{"iteration": 0, "a"{"iteration": 0, "a": 5.0}\n7\n{"a": 1}\n' + good)
    assert read_curves(path)["a"].values.tolist() == [1.0]
    assert "skipped 3 unreadable lines" in caplog.text


def test_nothing_usable_gives_no_curves(tmp_path):
    assert read_curves(tmp_path / "metrics.json") == {}
    (tmp_path / "metrics.json").write_bytes(b"\x00\xff\n")
    assert read_curves(tmp_path / "metrics.json") == {}


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


def test_smoothing_keeps_a_constant():
    np.testing.assert_allclose(smooth(np.full(7, 2.5), 5), 2.5)


def test_pretraining_runs_are_found_below_the_folders_and_beside_backbones(
    tmp_path, make_result, save_run
):
    for folder in ("given/mls", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "metrics.json").write_text('{"iteration": 1, "feature_std": 0.5}\n')
    (tmp_path / "given/other").mkdir()
    (tmp_path / "given/other/metrics.json").write_text('{"iteration": 1, "total_loss": 6.0}\n')
    save_run("coco", make_result())
    file = str(tmp_path / "elsewhere" / "backbone.pth")
    result = make_result(backbone={**make_result().backbone, "file": file})
    found = pretraining_folders(
        [tmp_path / "given", tmp_path / "runs"], [LocatedResult(Path("r"), result)]
    )
    assert list(found) == [tmp_path / "elsewhere", tmp_path / "given/mls"]


def test_a_pretraining_run_behind_a_link_is_called_as_the_link(tmp_path, make_result):
    cell = tmp_path / "cells" / "0123456789abcdef"
    cell.mkdir(parents=True)
    (cell / "metrics.json").write_text('{"iteration": 1, "feature_std": 0.5}\n')
    link = tmp_path / "suite" / "pretrain" / "mls-seed0"
    link.parent.mkdir(parents=True)
    link.symlink_to(cell)
    file = str(cell / "backbone.pth")
    result = make_result(backbone={**make_result().backbone, "file": file})
    for folder in (link, tmp_path / "suite"):
        assert list(pretraining_folders([folder], [LocatedResult(Path("r"), result)])) == [link]
