"""Our numbers stand beside the paper's where they may, and say why not elsewhere."""

import pytest

from mls_d2.core.errors import UserError
from mls_d2.report.comparison import compare

PAPER = {"preset": "paper", "task": "voc_faster_rcnn_c4"}
REAL = {
    "name": "voc_2007_test",
    "root": "d",
    "num_images": 16551,
    "synthetic": False,
    "fingerprint": "1",
}
COCO_800 = {"dataset": ["coco_2017_train"], "epochs": 800}


@pytest.fixture
def voc_runs(make_result, save_run, tmp_path):
    """Return a function that saves paper runs with the given APs, one a seed."""

    def save(*values, method="mls", info=COCO_800, **fields):
        backbone = {"file": "b.pth", "sha256": "ab" * 32, "info": info}
        if method == "random":
            backbone = {"file": "random", "sha256": "", "info": {}}
        for seed, value in enumerate(values):
            metrics = {"bbox": {"AP": value, "AP50": value + 20, "AP-dog": 1.0}}
            run = {"dataset": REAL, "backbone": backbone, "metrics": metrics} | PAPER | fields
            save_run(f"voc/{method}-seed{seed}", make_result(method, seed, **run))
        return compare([tmp_path / "runs"])

    return save


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_mean_and_deviation_over_seeds_beside_the_paper(voc_runs):
    text = voc_runs(54.0, 55.0, 57.5)  # mean 55.5, deviations -1.5, -0.5, 2: variance 6.5 / 2
    assert "voc_faster_rcnn_c4, mls, seeds 0, 1, 2" in text
    assert ["box", "AP", "55.50", "+-", "1.80", "55.0", "+0.50"] in rows(text)
    assert ["box", "AP50", "75.50", "+-", "1.80", "81.6", "-6.10"] in rows(text)
    assert "paper: MLS (COCO, 800 epochs), " in text
    assert "Table 4" in text
    assert "dog" not in text


def test_random_weights_have_their_row(voc_runs):
    text = voc_runs(30.0, method="random")
    assert ["box", "AP", "30.00", "32.8", "-2.80"] in rows(text)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"preset": "quick"}, "shortened schedule"),
        ({"preset": "custom"}, "not the published recipe"),
        ({"dataset": REAL | {"synthetic": True}}, "synthetic scenes"),
        ({"info": COCO_800 | {"synthetic": True}}, "pretrained on synthetic scenes"),
        ({"info": COCO_800 | {"epochs": 400}}, "is published there with other pretraining"),
        ({"task": "voc_retinanet"}, "there are none for task voc_retinanet"),
    ],
)
def test_where_no_published_number_may_stand_the_reason_does(voc_runs, fields, reason):
    text = voc_runs(55.0, **fields)
    assert "no published number beside it: " in text
    assert reason in text
    assert ["box", "AP", "55.00"] in rows(text)
    assert "81.6" not in text


def test_no_row_is_answered_with_those_that_there_are(voc_runs):
    assert "other pretraining (COCO, 800 epochs)" in voc_runs(55.0, info=COCO_800 | {"epochs": 400})


def test_metrics_that_the_paper_leaves_out_have_a_dash(voc_runs):
    info = {"dataset": ["coco_2017_train"], "epochs": 800}
    metrics = {"bbox": {"AP": 39.0}, "segm": {"AP": 35.0}}
    coco = {"task": "coco_mask_rcnn_fpn", "dataset": REAL | {"num_images": 118287}}
    text = voc_runs(0.0, method="self_emd", info=info, metrics=metrics, **coco)
    assert ["box", "AP", "39.00", "39.3", "-0.30"] in rows(text)
    assert ["mask", "AP", "35.00", "-", "-"] in rows(text)


def test_nothing_finished_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no evaluation has finished there"):
        compare([tmp_path])
