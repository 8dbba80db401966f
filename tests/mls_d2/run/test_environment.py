import torch

from mls_d2.results.schema import Device
from mls_d2.run.environment import collect_device


def test_a_cpu_counts_its_threads():
    device = collect_device("cpu")
    assert (device.kind, device.count) == ("cpu", torch.get_num_threads())


def test_gpus_count_one_a_process(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"name of {device}")
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 4)
    assert collect_device("cuda") == Device(kind="cuda", name="name of cuda", count=4)
    assert collect_device("cuda:1").kind == "cuda"
