"""The checks of a machine, on the CPU, and that they fail where they should."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mls_d2.core.errors import UserError
from mls_d2.run import gpu_check
from mls_d2.run.gpu_check import CheckFailed, agreement, run_checks

CPU = torch.device("cpu")


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh())

    def forward(self, images):
        return {"res5": self.layers(images)}


def fail(error):
    def check():
        raise error

    return check


def test_a_failing_check_does_not_stop_the_others():
    found = {
        finding.name: finding
        for finding in run_checks(
            {
                "fine": lambda: "as it should be",
                "wrong": fail(CheckFailed("3 is not 4")),
                "config": fail(UserError("no such key")),
                "driver": fail(RuntimeError("CUDA error: no kernel image\nmore lines")),
                "last": lambda: "also run",
            }
        )
    }
    states = {name: finding.state for name, finding in found.items()}
    assert states == {
        **{"fine": "ok", "wrong": "failed", "config": "failed"},
        **{"driver": "failed", "last": "ok"},
    }
    assert found["driver"].text == "RuntimeError: CUDA error: no kernel image"
    assert "in check" in found["driver"].details
    assert found["wrong"].details == ""
    assert found["fine"].line().split()[:2] == ["fine", "ok"]


def test_agreement_is_relative_to_the_largest_value_of_each_tensor():
    expected = [torch.tensor([1.0, 200.0]), torch.tensor([0.01])]
    assert agreement([torch.tensor([2.0, 200.0]), torch.tensor([0.01])], expected, 0.01) == (
        "differs by 5.0e-03"
    )
    with pytest.raises(CheckFailed, match=r"differs by 5.0e-01, expected at most 1e-02"):
        agreement([expected[0], torch.tensor([0.015])], expected, 0.01)
    # A gradient that is zero except for rounding agrees.
    assert agreement([expected[0], torch.tensor(1e-12)], [expected[0], torch.tensor(2e-12)], 1e-6)
    with pytest.raises(CheckFailed, match="nan"):
        agreement([expected[0], torch.tensor([float("nan")])], expected, 0.01)


def test_memory_formats_and_compiled_models_agree_and_another_model_does_not(monkeypatch):
    assert gpu_check.check_channels_last(CPU, Backbone).startswith("differs by")
    assert gpu_check.check_compile(CPU, Backbone, backend="eager").startswith("differs by")
    weights = iter((1.0, 1.01))

    def another():
        made = Backbone()
        nn.init.constant_(made.layers[0].weight[0, 0], next(weights))
        return made

    with pytest.raises(CheckFailed):
        gpu_check.check_channels_last(CPU, another)
    weights = iter((1.0, 1.01))
    with pytest.raises(CheckFailed):
        gpu_check.check_compile(CPU, another, backend="eager")


def test_autocast_computes_in_half_precision(monkeypatch):
    assert gpu_check.check_autocast(CPU).startswith("bfloat16 differs by ")
    real = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda *args: real(*args, enabled=False))
    with pytest.raises(CheckFailed, match=r"gives torch\.float32"):
        gpu_check.check_autocast(CPU)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A group of one process, and a smaller tensor to sum."""
    monkeypatch.setattr(gpu_check, "_REDUCED_MB", 1)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield str(tmp_path / "found.json")
    dist.destroy_process_group()


def test_sums_over_processes_are_compared(alone, monkeypatch):
    assert gpu_check.exchange(alone, "cpu") == 0
    with open(alone) as file:
        assert json.load(file)["text"].startswith("1 processes, gloo: all_reduce of 1 MB at ")
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.add_(1))
    with pytest.raises(CheckFailed, match=r"all_reduce of 1 to 1 gives 2\.0"):
        gpu_check.exchange(alone, "cpu")


def test_a_process_that_ends_early_is_a_failure(monkeypatch):
    monkeypatch.setattr(gpu_check, "run_processes", lambda main, environments: 76)
    with pytest.raises(CheckFailed, match="2 processes: exit code 76"):
        gpu_check.check_processes(CPU)


@pytest.mark.slow
def test_two_processes_find_each_other():
    assert gpu_check.check_processes(CPU).startswith("2 processes, gloo: all_reduce of 100 MB at ")


def test_gpus_whose_memory_is_taken_are_named(monkeypatch):
    fakes = {
        "device_count": lambda: 2,
        "mem_get_info": lambda index: ((60, 10)[index] * 2**30, 80 * 2**30),
        "get_device_name": lambda index: "H100",
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="5\n"))
    with pytest.raises(CheckFailed, match=r"10 of 80 GiB free; .*driver 5.* GPU 1$"):
        gpu_check.describe_devices(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (60 * 2**30, 80 * 2**30))
    assert "H100 60 of 80 GiB free; H100" in gpu_check.describe_devices(torch.device("cuda"))
