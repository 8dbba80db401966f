"""DINO against Algorithm 1 in loops: the loss, centre, teacher, and what happens to gradients."""

import math

import pytest
import torch

from pretrain.losses_clustering import dino_loss
from pretrain.methods.dino import Head, clip_each
from tests.pretrain.loops import softmax
from tests.pretrain.methods.tiny import disturb, make_batch, make_method

TAU_S, TAU_T = 0.2, 0.05
SMALL = {
    "student_temperature": TAU_S,
    "teacher_temperature": TAU_T,
    "num_prototypes": 5,
    "bottleneck_dim": 3,
    "hidden_dim": 4,
    "momentum": 0.75,
}


def loss_in_loops(student, teacher, centre, student_temperature, teacher_temperature) -> float:
    losses = []
    for views, targets in zip(student.tolist(), teacher.tolist(), strict=True):
        for t, target in enumerate(targets):
            shifted = [a - b for a, b in zip(target, centre.tolist(), strict=True)]
            wanted = softmax([value / teacher_temperature for value in shifted])
            for v, view in enumerate(views):
                if v != t:
                    found = softmax([value / student_temperature for value in view])
                    terms = [p * math.log(q) for p, q in zip(wanted, found, strict=True)]
                    losses.append(-sum(terms))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("num_views", [2, 10])
def test_the_loss_is_algorithm_1_over_all_pairs_of_views(num_views):
    student = torch.randn(3, num_views, 4, dtype=torch.float64)
    teacher = torch.randn(3, 2, 4, dtype=torch.float64)
    centre = torch.randn(4, dtype=torch.float64)
    got = dino_loss(student, teacher, centre, student_temperature=0.5, teacher_temperature=0.2)
    assert got.item() == pytest.approx(loss_in_loops(student, teacher, centre, 0.5, 0.2), rel=1e-12)


def test_an_even_student_costs_log_k_and_the_student_alone_has_a_gradient():
    student = torch.zeros(3, 4, 65536, requires_grad=True)
    teacher = torch.randn(3, 2, 65536, requires_grad=True)
    centre = torch.zeros(65536, requires_grad=True)
    loss = dino_loss(student, teacher, centre)
    assert loss.item() == pytest.approx(math.log(65536), rel=1e-5)
    loss.backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None
    assert centre.grad is None


def test_logits_of_half_precision_are_sharpened_in_float32():
    student, teacher = torch.randn(2, 2, 4, 8), torch.randn(2, 2, 8)
    half = [logits.bfloat16() for logits in (student[0], teacher, torch.zeros(8))]
    with torch.autocast("cpu", torch.bfloat16):
        got = dino_loss(*half)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, dino_loss(*(logits.float() for logits in half)))


@pytest.mark.parametrize(
    ("shapes", "temperature"),
    [
        (((3, 1, 4), (3, 1, 4), (4,)), 0.1),
        (((3, 2, 4), (3, 2, 4), (3,)), 0.1),
        (((3, 2, 4), (3, 2, 5), (5,)), 0.1),
        (((3, 2, 4), (3, 2, 4), (4,)), 0.0),
    ],
)
def test_bad_input_is_refused(shapes, temperature):
    with pytest.raises(ValueError, match="expected|temperature"):
        dino_loss(*(torch.zeros(shape) for shape in shapes), student_temperature=temperature)


@pytest.fixture
def method():
    made = make_method("dino", **SMALL, clip_gradients=1e-3, freeze_epochs=1.0)
    disturb(made.momentum_encoder)
    with torch.no_grad():
        made.centre.copy_(torch.randn(5))
    return made


def logits(encoder, views) -> torch.Tensor:
    """Return ``(N, V, K)``."""
    return torch.stack([encoder(view)[1] for view in views], dim=1).detach()


def test_a_step_compares_all_views_of_the_student_with_two_of_the_teacher(method, views):
    local = [torch.randn(4, 3, 1, 1, dtype=torch.float64) for _ in range(3)]
    output = method(make_batch([*views, *local]))
    student = logits(method.encoder, [*views, *local])
    teacher = logits(method.momentum_encoder, views)
    assert output.losses["loss_dino"].item() == pytest.approx(
        loss_in_loops(student, teacher, method.centre, TAU_S, TAU_T), rel=1e-5
    )
    chosen = {row.argmax().item() for row in (teacher - method.centre).flatten(0, 1)}
    assert output.metrics["prototype_spread"].item() == pytest.approx(len(chosen) / 5)
    before = method.centre.clone()
    # As the trainer gathers them: another process has twice these logits.
    mean = output.keys["centre"]
    method.enqueue({"centre": torch.cat([mean, 2 * mean])})
    expected = 0.9 * before + 0.1 * 1.5 * teacher.mean(dim=(0, 1)).double()
    torch.testing.assert_close(method.centre, expected)


def test_the_head_is_a_weight_normed_layer_with_a_gain_of_1():
    head = Head(6, 8, 4, 5, norm="BN")
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 5, bias=False))
    with torch.no_grad():
        layer.parametrizations.weight.original0.fill_(1)
        layer.parametrizations.weight.original1.copy_(head.prototypes.weight)
    assert head.mlp[0].bias.eq(0).all()
    g = torch.randn(3, 6)
    bottleneck = torch.nn.functional.normalize(head.mlp(g), dim=1)
    torch.testing.assert_close(head(g), layer(bottleneck))
    with torch.no_grad():
        head.prototypes.weight.mul_(7)
    torch.testing.assert_close(head(g), layer(bottleneck))


def test_the_weights_of_the_head_are_drawn_as_in_its_code():
    weight = Head(100, 100, 4, 5, norm="").mlp[0].weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_every_tensors_gradient_is_clipped_for_itself():
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([[0.3], [0.4]]), torch.zeros(2)]
    clip_each(gradients, 1.0)
    torch.testing.assert_close(gradients[0], torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(gradients[1], torch.tensor([[0.3], [0.4]]))
    assert not gradients[2].any()


@pytest.mark.parametrize(("epoch", "learns"), [(0.99, False), (1.0, True)])
def test_prototypes_wait_for_an_epoch(method, views, epoch, learns):
    method(make_batch(views, epoch=epoch)).losses["loss_dino"].backward()
    method.before_optimizer_step()
    assert (method.encoder.projector.prototypes.weight.grad is not None) == learns
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert len(gradients) == 7 + learns  # The backbone's one, three weights and biases.
    assert all(gradient.norm() <= 1e-3 for gradient in gradients)
    assert method.encoder.backbone.weight.grad.norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_the_teacher_moves_after_the_optimizers_step_and_is_exported(method, views):
    slow, online = method.momentum_encoder.backbone.weight, method.encoder.backbone.weight
    before = slow.clone()
    method(make_batch(views))
    assert torch.equal(slow, before)
    with torch.no_grad():
        online.add_(1.0)  # The optimizer's step.
    method.after_optimizer_step()
    torch.testing.assert_close(slow, 0.75 * before + 0.25 * online)
    assert torch.equal(method.export()["weight"], slow)
