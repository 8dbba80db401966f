"""The device of a run, and the line that shows its progress."""

import logging

import pytest
import torch
from detectron2.utils.events import EventStorage

from mls_d2.config.defaults import get_cfg
from mls_d2.results.schema import Device
from mls_d2.run.environment import collect_device, resolve_device
from mls_d2.run.progress import ProgressPrinter


def test_a_cpu_counts_its_threads_and_gpus_one_per_process(monkeypatch):
    device = collect_device("cpu")
    assert (device.kind, device.count) == ("cpu", torch.get_num_threads())
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"name of {device}")
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 4)
    assert collect_device("cuda") == Device(kind="cuda", name="name of cuda", count=4)
    assert collect_device("cuda:1").kind == "cuda"


@pytest.mark.parametrize("benchmark", [True, False])
def test_the_device_and_how_its_kernels_are_chosen_follow_the_config(monkeypatch, benchmark):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not benchmark)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.CUDNN_BENCHMARK = "cuda", benchmark
    resolve_device(cfg)
    assert cfg.MODEL.DEVICE == "cpu"
    assert torch.backends.cudnn.benchmark is benchmark


@pytest.mark.parametrize(
    ("capability", "asked", "expected"),
    [
        ((7, 5), "auto", "float16"),
        ((8, 0), "auto", "bfloat16"),
        ((9, 0), "float16", "float16"),
        (None, "auto", "bfloat16"),
    ],
)
def test_half_precision_is_bfloat16_where_the_gpu_has_it(monkeypatch, capability, asked, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: capability is not None)
    monkeypatch.setattr("torch.cuda.get_device_capability", {"cuda": capability}.get)
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.PRETRAIN.AMP_DTYPE = "cuda", asked
    resolve_device(cfg)
    assert expected == cfg.PRETRAIN.AMP_DTYPE


@pytest.mark.parametrize(
    ("there", "missing", "expected"),
    [
        ("avx512_f avx512_bf16", "amx_bf16", True),
        ("avx2 amx_bf16", "avx512_bf16", True),
        ("avx512_f avx512_fp16", "avx512_bf16 amx_bf16", False),
        ("neon bf16", "sve", True),  # ARM
        ("neon fp16_arith", "bf16", False),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_if_it_can(monkeypatch, there, missing, expected):
    known = dict.fromkeys(there.split(), True) | dict.fromkeys(missing.split(), False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED = "cpu", True
    resolve_device(cfg)
    assert expected == cfg.SOLVER.AMP.ENABLED


def test_a_version_of_torch_that_cannot_tell_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED = "cpu", True
    resolve_device(cfg)
    assert not cfg.SOLVER.AMP.ENABLED


def line(caplog, max_iter=10):
    with caplog.at_level(logging.INFO, "mls_d2.run.progress"):
        ProgressPrinter(max_iter, ("feature_std",)).write()
    return caplog.records[-1].getMessage() if caplog.records else ""


def test_a_rare_value_is_shown_as_it_is_and_a_noisy_one_as_a_median(caplog):
    with EventStorage(0) as storage:
        for value in (1.0, 9.0, 2.0):
            storage.put_scalar("loss_cls", value)
            storage.put_scalar("feature_std", value, smoothing_hint=False)
            storage.put_scalar("time", 3.0)
            storage.step()
        text = line(caplog)
    assert text.startswith("4/10  loss_cls 2  feature_std 2")
    assert "ETA 0:00:18" in text
