"""The step of both phases against one by hand, and losses that are not finite."""

import pytest
import torch

from mls_d2.core.errors import UserError
from mls_d2.run.loop import FiniteLossGuard, NonFiniteLossError, TrainingLoop


class TwoLosses(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, batch):
        residual = self.weight * batch
        return {"loss_a": residual.square().sum(), "loss_b": residual.abs().sum() / 3}


BATCHES = [torch.tensor([0.5, 2.0]), torch.tensor([1.5, -1.0]), torch.tensor([-0.3, 0.7])]


class Recording(TrainingLoop):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.calls = []

    def before_optimizer_step(self):
        self.calls.append(("before", self.model.weight.grad.clone(), self.model.weight.clone()))

    def after_optimizer_step(self, batch):
        self.calls.append(("after", batch, self.model.weight.detach().clone()))

    def log(self, losses, total):
        super().log(losses, total)
        self.calls.append(("log", {k: v for k, (v, _) in self.storage.latest().items()}))


def make_loop(batches=BATCHES, **options):
    model = TwoLosses()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return Recording(model, batches, optimizer, **options)


def test_a_step_is_that_of_sgd_by_hand_with_methods_around_the_optimizer():
    loop = make_loop(scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
    loop.train(0, 3)
    weight, velocity = torch.tensor([1.0, -2.0]), torch.zeros(2)
    assert [name for name, *_ in loop.calls] == ["before", "after", "log"] * 3
    for step, batch in enumerate(BATCHES):
        (_, grad, before), (_, given, after), (_, logged) = loop.calls[3 * step : 3 * step + 3]
        expected = 2 * weight * batch**2 + torch.sign(weight * batch) * batch / 3
        losses = (weight * batch).square().sum(), (weight * batch).abs().sum() / 3
        torch.testing.assert_close(grad, 4 * expected)  # still scaled
        torch.testing.assert_close(before, weight)
        assert given is batch
        velocity = 0.9 * velocity + expected
        weight = weight - 0.1 * velocity
        torch.testing.assert_close(after, weight)
        assert logged["loss_a"] == pytest.approx(float(losses[0]))
        assert logged["total_loss"] == pytest.approx(float(sum(losses)))
        assert logged["data_time"] >= 0


def test_autocast_computes_in_the_given_type_only_if_asked():
    class Linear(torch.nn.Linear):
        def forward(self, batch):
            self.seen = super().forward(batch).dtype
            return {"loss": self.weight.sum()}

    for amp_dtype, expected in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        model = Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        TrainingLoop(model, [torch.ones(1, 2)], optimizer, amp_dtype=amp_dtype).train(0, 1)
        assert model.seen == expected


def test_no_step_follows_a_loss_that_is_not_finite():
    loop = make_loop([BATCHES[0], torch.tensor([1.0, float("nan")])])
    with pytest.raises(NonFiniteLossError, match="iteration 1: loss_a = nan, loss_b = nan"):
        loop.train(0, 2)
    assert [name for name, *_ in loop.calls] == ["before", "after", "log"]
    assert loop.model.weight.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_only_the_terms_that_are_not_finite_are_named_and_large_ones_pass(value, refuses):
    guard = FiniteLossGuard()
    guard.check({"loss": torch.tensor(3e38), "other": torch.tensor(-1e30, requires_grad=True)}, 0)
    losses = {"loss_good": torch.tensor(1.0), "loss_bad": torch.tensor(value)}
    with refuses("not-finite") as caught:
        guard.check(losses, 7)
    assert "iteration 7: loss_bad = " in str(caught.value)
    assert "loss_good" not in str(caught.value)


@pytest.mark.gpu
def test_the_guard_raises_one_step_later_on_a_gpu():
    guard = FiniteLossGuard()
    guard.check({"loss": torch.tensor(float("nan"), device="cuda")}, 4)
    with pytest.raises(NonFiniteLossError, match="iteration 4"):
        guard.check({"loss": torch.tensor(1.0, device="cuda")}, 5)
    guard.check({"loss": torch.tensor(float("inf"), device="cuda")}, 6)
    with pytest.raises(NonFiniteLossError, match="iteration 6"):
        guard.flush()


def test_user_errors_reach_the_user_and_hooks_are_closed(refuses):
    class Failing(TrainingLoop):
        closed = False

        def compute_losses(self, batch):
            raise UserError("bad", code="bad-value")

        def after_train(self):
            self.closed = True

    model = TwoLosses()
    loop = Failing(model, BATCHES, torch.optim.SGD(model.parameters(), 0.1))
    with refuses("bad-value"):
        loop.train(0, 1)
    assert loop.closed
