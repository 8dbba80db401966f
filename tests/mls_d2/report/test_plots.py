"""What the pictures show; their text is text in the SVG."""

import numpy as np
import pytest

from mls_d2.report.curves import Curve
from mls_d2.report.plots import plot_pretraining

TOTAL, NCE, STD = "total loss (sum of all terms)", "InfoNCE loss (nats)", "feature std"


def curves(*names):
    return {name: Curve(np.arange(9), np.linspace(1, 0, 9)) for name in names}


@pytest.mark.parametrize(
    ("metrics", "shown", "absent"),
    [
        (("total_loss", "positive_similarity", "feature_std"), (TOTAL, "cosine", STD), (NCE,)),
        (("total_loss", "loss_nce", "feature_std"), (TOTAL, NCE, STD), ("cosine",)),
        (("feature_std",), (STD,), (TOTAL, NCE, "cosine")),
    ],
)
def test_pretraining_has_a_panel_for_each_quantity_that_a_run_logged(
    tmp_path, metrics, shown, absent
):
    path = plot_pretraining({"byol": curves(*metrics)}, title="T", stem=tmp_path / "pretraining")
    text = path.read_text()
    assert all(label in text for label in shown)
    assert not any(label in text for label in (*absent, "not logged"))
    assert text.count(">iteration<") == len(metrics)


def test_methods_with_and_without_a_quantity_share_the_panels(tmp_path):
    runs = {"mls": curves("total_loss", "loss_nce"), "byol": curves("total_loss", "feature_std")}
    text = plot_pretraining(runs, title="T", stem=tmp_path / "pretraining").read_text()
    assert all(label in text for label in (TOTAL, NCE, STD, "mls", "byol"))
    assert text.count(">iteration<") == 3
