"""Warnings: when they come, when they do not, and that a resumed run knows what was."""

import json
import math
import re

import pytest

from pretrain.monitors import Monitors

HEALTHY = {
    "loss_nce": 6.2,
    "loss_ml": 1.5,
    "feature_std": 0.5,
    "dictionary_rank": 5.0,
    "label_spread": 0.3,
    "label_similarity": 0.8,
}


def monitors(path="nowhere", max_iter=2000) -> Monitors:
    return Monitors(candidates=1025, log_period=20, max_iter=max_iter, metrics_file=str(path))


def feed(watch: Monitors, *rows: dict) -> list[tuple[int, str]]:
    """Return (entry, message) of what is said; patience is ten entries here."""
    return [
        (index, message)
        for index, row in enumerate(rows)
        for message in watch.observe(20 * index + 19, HEALTHY | row)
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"loss_nce": math.log(1025)}, "chance level.*loss_nce = 6.932.*PROJECTOR_NORM BN"),
        ({"feature_std": 0.01}, "collapse of the features.*feature_std = 0.01.*BASE_LR"),
        ({"embedding_std": 0.05}, "collapse of the embeddings.*= 0.05.*MOCO.MOMENTUM"),
        ({"dictionary_rank": 1.1}, "collapse of the dictionary.*= 1.1.*WARMUP_EPOCHS"),
        ({"label_spread": 0.02}, "same pseudo-labels.*label_spread = 0.02.*MLS.K"),
        ({"prototype_spread": 0.02}, "same prototype.*prototype_spread = 0.02.*HEAD_NORM"),
    ],
)
def test_what_lasts_is_said_once_and_again_when_it_comes_back(row, said):
    found = feed(monitors(), *[{}] * 5, *[row] * 30, {}, *[row] * 10)
    assert [index for index, _ in found] == [14, 45]
    for _, message in found:
        assert re.search(said, message)
    assert "since iteration 119" in found[0][1]


def test_a_method_that_contrasts_nothing_has_no_chance_level():
    watch = Monitors(candidates=None, log_period=20, max_iter=2000, metrics_file="nowhere")
    assert feed(watch, *[{"loss_nce": 1e9}] * 30) == []


def test_chance_level_is_among_the_candidates():
    watch = Monitors(candidates=127, log_period=20, max_iter=2000, metrics_file="nowhere")
    found = feed(watch, *[{"loss_nce": math.log(127)}] * 10)
    assert len(found) == 1
    assert "not found among 127 candidates (log(127) = 4.84)" in found[0][1]


def test_what_passes_is_not_said():
    bad = {"loss_nce": 7.0, "feature_std": 0.0, "dictionary_rank": 1.0, "label_spread": 0.0}
    assert feed(monitors(), *([bad] * 9 + [{}]) * 10) == []


def test_losses_that_all_rise_are_said_and_one_that_rises_alone_is_not():
    up = [{"loss_nce": 5 + 0.01 * i, "loss_ml": 1 + 0.01 * i} for i in range(100)]
    found = feed(monitors(), *up)
    assert len(found) == 1
    assert "all losses have been rising" in found[0][1]
    assert found[0][0] == 39
    alone = [row | {"loss_nce": 5.0 - 0.001 * i} for i, row in enumerate(up)]
    assert feed(monitors(), *alone) == []
    mocov2 = monitors()
    rows = [{"loss_nce": row["loss_nce"]} for row in up]
    assert sum(len(mocov2.observe(20 * i, row)) for i, row in enumerate(rows)) == 1


def test_a_healthy_curve_with_noise_and_the_dip_of_the_beginning_says_nothing():
    rows = [
        {
            "loss_nce": 6.0 + 0.7 * math.exp(-(((i - 12) / 6) ** 2)) + 0.05 * math.sin(1.7 * i),
            "loss_ml": 1.5 + 0.5 * math.sin(i / 15),
            "dictionary_rank": 3 + 3 * abs(math.cos(i / 40)),
        }
        for i in range(100)
    ]
    assert feed(monitors(), *rows) == []


def test_a_resumed_run_knows_what_was_before(tmp_path):
    path = tmp_path / "metrics.json"
    rows = [HEALTHY | {"feature_std": 0.0, "iteration": 20 * i + 19} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    watch = monitors(path)
    assert watch.observe(179, HEALTHY | {"feature_std": 0.0}) == []
    assert len(watch.observe(199, HEALTHY | {"feature_std": 0.0})) == 1
