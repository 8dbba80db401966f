"""Figures 3 and 4: the weights before and after training, the crops, and their neighbours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data import image_source
from pretrain.figures import (
    CutViews,
    choose_queries,
    draw_figures,
    embed_crops,
    finished_runs,
    initial_method,
    nearest_of_others,
    scores_of,
    trained_method,
)
from pretrain.run import pretrain
from pretrain.views.crops import Crop, cut


def test_nearest_rows_equal_a_loop_and_leave_out_the_own_image():
    generator = torch.Generator().manual_seed(0)
    query, rows = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (3, 9))
    own = torch.zeros(3, 9, dtype=torch.bool)
    own[0, (query @ rows.T)[0].argmax()] = True
    own[2, 4] = True
    cosines, indices = nearest_of_others(query, rows, own, 4)
    for q in range(3):
        scored = [
            (sum(float(a) * float(b) for a, b in zip(query[q], rows[d], strict=True)), d)
            for d in range(9)
            if not own[q, d]
        ]
        expected = sorted(scored, reverse=True)[:4]
        assert indices[q].tolist() == [d for _, d in expected]
        np.testing.assert_allclose(cosines[q], [score for score, _ in expected], rtol=1e-12)


def crops_of(g, index):
    unit = torch.nn.functional.normalize(g, dim=1)
    return CutViews([(unit, unit), (unit, unit)], torch.zeros(len(g), 4), torch.tensor(index))


def test_the_last_query_has_the_least_similar_neighbours_and_the_others_follow_the_seed():
    generator = torch.Generator().manual_seed(1)
    rows = torch.rand(20, 5, generator=generator)
    g = torch.rand(12, 5, generator=generator)
    g[7] = -torch.ones(5)
    queries, keys = crops_of(g, range(12)), crops_of(rows, range(100, 120))
    chosen = choose_queries(queries, keys, seed=0)
    assert len(set(chosen)) == 6
    assert chosen[-1] == 7
    assert chosen == choose_queries(queries, keys, seed=0)
    assert chosen != choose_queries(queries, keys, seed=1)


def test_scores_are_cosines_with_the_rows_of_other_images():
    generator = torch.Generator().manual_seed(2)
    g, rows = (torch.randn(n, 5, generator=generator) for n in (2, 4))
    queries, keys = crops_of(g, [8, 3]), crops_of(rows, [1, 3, 5, 7])
    found = scores_of(queries, keys, 1)["backbone g·Q_g"]["after"]
    cosine = torch.nn.functional.cosine_similarity
    expected = [float(cosine(g[1], rows[row], dim=0)) for row in (0, 2, 3)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(scores_of(queries, keys, 0)["projector z·Q_z"]["before"]) == 4


def test_before_is_what_the_run_started_with_and_after_what_it_ended_with(config):
    # Without a step that changes anything, a run ends with its initial weights.
    cfg = config(SOLVER__BASE_LR="1e-30", SOLVER__WEIGHT_DECAY="0.0", MOCO__MOMENTUM="0.0")
    pretrain(cfg.clone())
    before, after = initial_method(cfg), trained_method(cfg, Path(cfg.OUTPUT_DIR))
    for (name, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12, msg=name)
    fresh = config("trained")
    pretrain(fresh.clone())
    trained = trained_method(fresh, Path(fresh.OUTPUT_DIR))
    assert not torch.equal(trained.encoder.backbone.stem.conv1.weight, weights_of(before))


def weights_of(method):
    return method.encoder.backbone.stem.conv1.weight


@pytest.fixture
def gradients(tmp_path):
    """Images in which red is the column and green the row, so that a view shows its rectangle."""
    folder = tmp_path / "gradients"
    folder.mkdir()
    for number in range(12):
        rows, columns = np.indices((48, 64))
        pixels = np.stack([3 * columns, 4 * rows, np.full_like(rows, 20 * number)], axis=-1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def test_rectangles_are_those_of_the_views_mirrored_or_not(config, gradients):
    """The network of this test returns the view, so that its pixels can be compared."""
    off = {f"PRETRAIN__AUGMENT__{key}_PROB": "0.0" for key in ("JITTER", "GRAY", "BLUR")}
    found = {}
    for flip in ("0.0", "1.0"):
        cfg = config(DATASETS__TRAIN=f"('{gradients}',)", PRETRAIN__AUGMENT__FLIP_PROB=flip, **off)
        method = initial_method(cfg)
        seen = []

        def look(view, seen=seen):
            seen.append(view)
            return torch.rand(len(view), 3), torch.rand(len(view), 2)

        method.encoder = torch.nn.Identity()
        method.encoder.forward = look
        source = image_source(cfg.DATASETS.TRAIN)
        queries, _ = embed_crops(cfg, source, (method,), seed=5)
        views = torch.cat(seen)
        assert len(views) == len(queries.index) == 12
        for view, rectangle, index in zip(views, queries.rectangles, queries.index, strict=True):
            pixels = np.array(Image.open(source.name(int(index))))
            crop = Crop(*(int(value) for value in rectangle), flipped=flip == "1.0")
            expected = torch.from_numpy(cut(pixels, crop, 32).copy()).permute(2, 0, 1).float()
            mean, std = (
                torch.tensor(v)[:, None, None] for v in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
            )
            torch.testing.assert_close(view * std + mean, expected, rtol=0, atol=1e-3)
        found[flip] = queries.rectangles
    # The rectangle lies on the image as it is, so that mirroring the view does not move it.
    assert torch.equal(found["0.0"], found["1.0"])


def test_the_views_follow_the_seed_of_the_figure(config, gradients):
    cfg = config(DATASETS__TRAIN=f"('{gradients}',)")
    found = {}
    for seed in (0, 0, 1):
        queries, rows = embed_crops(
            cfg, image_source(cfg.DATASETS.TRAIN), (initial_method(cfg),), seed=seed
        )
        shown = dict(zip(queries.index.tolist(), queries.rectangles.tolist(), strict=True))
        assert len(rows.index) == 12
        assert found.setdefault(seed, shown) == shown
    assert all(found[0][index] != found[1][index] for index in found[0])


def test_the_files_hold_what_the_pictures_show(config, images):
    cfg = config()
    pretrain(cfg.clone())
    run = Path(cfg.OUTPUT_DIR)
    assert finished_runs([run.parent], "mls") == [run]
    assert finished_runs([run.parent], "mocov2") == []
    pictures = draw_figures(run, run / "figures", seed=0)
    assert [path.name for path in pictures] == ["figure3.svg", "figure4.jpg"]
    assert "before training" in pictures[0].read_text()
    assert "8 rows: mls, 2 epochs, images" in pictures[0].read_text()
    scores = json.loads((run / "figures/figure3.json").read_text())["panels"]
    assert set(scores) == {"backbone g·Q_g", "projector z·Q_z"}
    shown = json.loads((run / "figures/figure4.json").read_text())["queries"]
    assert len(shown) == 6
    for query in shown:
        cosines = [row["cosine"] for row in query["neighbours"]]
        assert cosines == sorted(cosines, reverse=True)
        assert query["index"] not in [row["index"] for row in query["neighbours"]]
        assert max(cosines) <= 1 + 1e-6
    # Of 9 images 8 fill batches of 4: 8 rows, less the query's own image if it is among them.
    for panel in scores.values():
        assert {sum(panel[time]["counts"]) for time in ("before", "after")} <= {7, 8}
    means = scores["backbone g·Q_g"]
    assert means["before"]["mean"] != means["after"]["mean"]
    again = draw_figures(run, run / "again", seed=0)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in pictures]


def test_runs_without_what_the_figures_need_are_refused(config, refuses, tmp_path):
    with refuses("missing-file"):
        finished_runs([tmp_path / "nowhere"], "mls")
    for name in ("simclr", "densecl", "pixpro"):
        with refuses("bad-value"):
            initial_method(config(PRETRAIN__METHOD=name))
    with refuses("missing-file"):
        trained_method(config(), tmp_path)
    (tmp_path / "model_final.pth").write_bytes(b"")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "model_final.pth")
    with refuses("damaged-file"):
        trained_method(config(), tmp_path)
    cfg = config(SOLVER__IMS_PER_BATCH="16")
    with refuses("bad-value"):
        embed_crops(cfg, image_source(cfg.DATASETS.TRAIN), (), seed=0)
