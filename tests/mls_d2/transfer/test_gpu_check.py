"""The checks of fine-tuning, on the CPU, and that they fail where they should."""

import pytest
import torch

from mls_d2.run.gpu_check import CheckFailed
from mls_d2.transfer import gpu_check
from mls_d2.transfer.gpu_check import KINDS, check_step
from tests.mls_d2.conftest import load_with

CPU = torch.device("cpu")
NARROW = {"STEM_OUT_CHANNELS": 4, "RES2_OUT_CHANNELS": 8, "WIDTH_PER_GROUP": 2}


def config(request, kind, **changes):
    values = {f"MODEL.RESNETS.{key}": value for key, value in NARROW.items()} | changes
    return load_with(request.config.rootpath / f"transfer_configs/{kind}_quick.yaml", values)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_every_kind(request, kind):
    assert float(check_step(config(request, kind), CPU).removeprefix("loss float32 ")) > 0


@pytest.mark.parametrize(
    ("rate", "message"), [("inf", "a weight is not finite"), ("0.0", "no weight has changed")]
)
def test_a_step_that_does_nothing_or_too_much(request, monkeypatch, rate, message):
    class Rate:
        def optimizer(self, cfg, model):
            return torch.optim.SGD(model.parameters(), lr=float(rate))

    monkeypatch.setattr(gpu_check, "task_of", lambda cfg: Rate())
    with pytest.raises(CheckFailed, match=message):
        check_step(config(request, "classification/voc2007_linear"), CPU)


def test_a_loss_that_is_not_finite(request, monkeypatch):
    real = gpu_check.build_model

    def broken(cfg):
        model = real(cfg)
        for weight in model.head.parameters():
            torch.nn.init.constant_(weight, float("nan"))
        return model

    monkeypatch.setattr(gpu_check, "build_model", broken)
    with pytest.raises(CheckFailed, match="the loss is not finite: float32 nan"):
        check_step(config(request, "classification/voc2007_linear"), CPU)
