"""VICReg against the sums of its code, in loops."""

import math
import statistics

import pytest
import torch

from pretrain.losses import vicreg_terms
from tests.pretrain.methods.tiny import make_batch, make_method


def covariance(one: list[float], other: list[float]) -> float:
    """Divided by N - 1."""
    means = statistics.fmean(one), statistics.fmean(other)
    products = [(a - means[0]) * (b - means[1]) for a, b in zip(one, other, strict=True)]
    return sum(products) / (len(one) - 1)


def terms_in_loops(views: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, float, float]:
    channels = [view.T.tolist() for view in views]
    num_channels, count = len(channels[0]), len(channels[0][0])
    invariance = variance = redundancy = 0.0
    for one, other in zip(*channels, strict=True):
        for a, b in zip(one, other, strict=True):
            invariance += (a - b) ** 2 / count / num_channels
    for view in channels:
        for i, one in enumerate(view):
            deviation = math.sqrt(covariance(one, one) + 1e-4)
            variance += max(0.0, 1 - deviation) / num_channels / 2
            for j, other in enumerate(view):
                redundancy += covariance(one, other) ** 2 / num_channels if i != j else 0.0
    return invariance, variance, redundancy


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings ``(6, 4)``, some of whose channels vary by more than 1 and some by less."""
    rows = torch.randn(2, 6, 4, dtype=torch.float64) * torch.tensor([0.2, 0.7, 1.5, 3.0])
    return rows[0], rows[1]


def test_the_terms_are_those_of_the_loops(pair):
    assert [term.item() for term in vicreg_terms(*pair)] == pytest.approx(terms_in_loops(pair))


def test_what_vicreg_wants_costs_nothing():
    # Uncorrelated channels of deviation 2/√3.
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    costs = [term.item() for term in vicreg_terms(corners, corners)]
    assert costs == pytest.approx([0, 0, 0], abs=1e-12)


def test_equal_embeddings_cost_their_missing_variance_and_still_have_a_gradient():
    rows = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    invariance, variance, redundancy = vicreg_terms(rows, rows)
    # √1e-4 is left of the deviation.
    assert variance.item() == pytest.approx(0.99)
    assert (invariance.item(), redundancy.item()) == (0, 0)
    (gradient,) = torch.autograd.grad(variance, rows)
    assert gradient.isfinite().all()


def test_the_covariance_leaves_the_variances_alone(pair):
    view1 = pair[0].requires_grad_()
    (gradient,) = torch.autograd.grad(vicreg_terms(view1[:, :1], pair[1][:, :1])[2], view1)
    assert gradient.abs().max() == 0
    stretched = torch.tensor([1.0, 10.0, 1.0, 1.0]) * pair[0]
    assert vicreg_terms(stretched, pair[1])[2] > vicreg_terms(*pair)[2]


def test_float16_is_computed_in_float32_also_under_autocast(pair):
    half = [view.half() for view in pair]
    with torch.autocast("cpu", torch.bfloat16):
        got = vicreg_terms(*half)
    expected = vicreg_terms(*(view.float() for view in half))
    for term, value in zip(got, expected, strict=True):
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, value)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [(((4, 3), (4, 2)), "expected"), (((4,), (4,)), "expected"), (((1, 3), (1, 3)), "two images")],
)
def test_embeddings_that_do_not_fit_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        vicreg_terms(*(torch.zeros(shape) for shape in shapes))


def test_a_step_weighs_the_terms_of_both_views_embeddings(views):
    method = make_method("vicreg", invariance_weight=3.0, variance_weight=2.0)
    method.eval()  # BatchNorm would make rows depend on the whole pass.
    output = method(make_batch(views))
    embeddings = [method.encoder(view)[1].detach() for view in views]
    names = ("loss_invariance", "loss_variance", "loss_covariance")
    got = [output.losses[name].item() for name in names]
    assert got == pytest.approx(terms_in_loops(tuple(embeddings)))
    assert [output.weights[name] for name in names] == [3.0, 2.0, 1.0]


def test_both_views_have_gradients(views):
    method = make_method("vicreg")
    inputs = [view.clone().requires_grad_() for view in views]
    loss = torch.stack(list(method(make_batch(inputs)).weighted().values())).sum()
    for gradient in torch.autograd.grad(loss, inputs):
        assert gradient.abs().max() > 0
