"""Figures 3 to 5 of the paper: counts, rectangles, sweeps, and that a report shows them."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from mls_d2.report.build import draw_sweeps, write_report
from mls_d2.report.figures import (
    RED,
    YELLOW,
    Marked,
    framed,
    plot_neighbours,
    plot_scores,
    plot_sweeps,
    shared_histograms,
    sweeps,
)
from mls_d2.report.groups import group_results
from mls_d2.results.schema import collect_results


def test_histograms_equal_a_loop_over_the_common_range():
    rng = np.random.default_rng(0)
    scores = {"before": rng.normal(0, 0.1, 200), "after": rng.normal(0.3, 0.4, 50)}
    edges, counts = shared_histograms(scores, bins=7)
    every = [float(v) for values in scores.values() for v in values]
    low, high = min(every), max(every)
    np.testing.assert_allclose(edges, [low + (high - low) * i / 7 for i in range(8)])
    for name, values in scores.items():
        expected = [0] * 7
        for value in values:
            place = next(i for i in range(7) if value < edges[i + 1] or i == 6)
            expected[place] += 1
        assert counts[name].tolist() == expected
        assert sum(expected) == len(values)


def test_the_picture_of_scores_states_mean_and_spread(tmp_path):
    values = {"before": np.array([0.1, 0.3]), "after": np.array([0.5, 0.9, 0.7])}
    plot_scores({"g": values, "z": values}, title="about it", path=tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    for expected in ("about it", "g, before training: mean 0.200, std 0.100", "z, after training"):
        assert expected in text


@pytest.mark.parametrize("side", [40, 80])
def test_a_frame_lies_just_inside_the_rectangle(side):
    image = np.full((30, 40, 3), 7, np.uint8)
    factor = side // 40
    drawn = framed(image, (10, 5, 20, 15), RED, side)
    assert drawn.shape == (30 * factor, side, 3)
    expected = np.full_like(drawn, 7)
    left, top, right, bottom = (factor * value for value in (10, 5, 30, 20))
    for y in range(top, bottom):
        for x in range(left, right):
            if min(x - left, right - 1 - x, y - top, bottom - 1 - y) < 3:
                expected[y, x] = RED
    np.testing.assert_array_equal(drawn, expected)
    assert (image == 7).all()


def test_queries_are_framed_in_red_and_neighbours_in_yellow_at_their_places(tmp_path):
    grey = np.full((20, 20, 3), 128, np.uint8)
    item = Marked(grey, (0, 0, 20, 20), "t")
    plot_neighbours([(item, [item, item])] * 3, title="", path=tmp_path / "a.jpg")
    pixels = np.asarray(Image.open(io.BytesIO((tmp_path / "a.jpg").read_bytes()))).astype(int)
    for colour, count in ((RED, 3), (YELLOW, 6)):
        near = np.abs(pixels - colour).max(axis=2) < 60
        assert near.sum() == pytest.approx(count * (120**2 - 114**2), rel=0.1)
    red = np.abs(pixels - RED).max(axis=2) < 60
    columns, half = np.nonzero(red.any(axis=0))[0], pixels.shape[1] / 2
    assert columns.min() < 20
    assert half < columns[columns > half].min() < half + 30


@pytest.fixture
def swept(make_result, save_run, tmp_path):
    """Runs of MLS with several D and λ, of MoCo-v2, and of MLS with another K."""

    def save(name, method="mls", ap=10.0, seed=0, **values):
        config = {"MOCO": {"DICTIONARY_SIZE": 4096}, "MLS": {"LAMBDA": 0.5, "K": 20}}
        for key, value in values.items():
            section = "MOCO" if key in config["MOCO"] else "MLS"
            config[section][key] = value
        digest = f"{abs(hash(name.partition('-')[0])):064x}"[:64]
        result = make_result(method, seed, ap=ap, pretraining=config)
        weights = type(result.backbone)(
            file=f"{name}/backbone.pth", sha256=digest, info=result.backbone.info
        )
        save_run(name, make_result(method, seed, ap=ap, backbone=weights))

    save("base-0", ap=20.0)
    save("base-1", ap=22.0, seed=1)
    save("d1", ap=18.0, DICTIONARY_SIZE=1024)
    save("d2", ap=19.0, DICTIONARY_SIZE=16384)
    save("l1", ap=17.0, LAMBDA=0.1)
    save("k", ap=11.0, K=5, DICTIONARY_SIZE=512)
    save("moco", "mocov2", ap=15.0)
    return tmp_path / "runs"


def test_sweeps_are_rows_that_differ_in_one_value_alone(swept, tmp_path):
    (group,) = group_results(collect_results([swept])[0])[0]
    found = {
        key: [(value, [v for _, v in row.values("bbox.AP")]) for value, row in pairs]
        for key, pairs in sweeps(group).items()
    }
    assert found == {
        "MOCO.DICTIONARY_SIZE": [(1024, [18]), (4096, [20, 22]), (16384, [19])],
        "MLS.LAMBDA": [(0.1, [17]), (0.5, [20, 22])],
    }
    assert plot_sweeps(group, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    for expected in ("dictionary size D", "weight λ", "16384", "MoCo-v2", "synthetic scenes"):
        assert expected in text


def test_without_a_sweep_there_is_no_picture(make_result, save_run, tmp_path):
    save_run("one", make_result())
    (group,) = group_results(collect_results([tmp_path])[0])[0]
    assert sweeps(group) == {}
    assert not plot_sweeps(group, tmp_path / "a.svg")
    assert draw_sweeps([tmp_path], tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_a_report_shows_the_figures_of_its_runs(swept, tmp_path):
    run = swept / "pretraining"
    (run / "figures").mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({"iteration": 1, "feature_std": 0.5}) + "\n")
    (run / "figures" / "figure3.svg").write_text("<svg/>")
    (run / "figures" / "figure4.jpg").write_bytes(b"\xff\xd8picture")
    report = write_report([swept], tmp_path / "out")
    files = [picture.file for picture in report.pretraining]
    assert files == ["pretraining.svg", "figure3-1.svg", "figure4-1.jpg"]
    assert [picture.file for picture in report.sections[0].curves] == ["curves.svg", "figure5.svg"]
    assert (tmp_path / "out" / "figure4-1.jpg").read_bytes() == b"\xff\xd8picture"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert len(re.findall("<figcaption>", page)) == 5
    text = (tmp_path / "out" / "report.md").read_text()
    assert all(f"]({name})" in text for name in [*files, "curves.svg", "figure5.svg"])
    assert draw_sweeps([swept], tmp_path / "only") == [tmp_path / "only" / "figure5.svg"]
