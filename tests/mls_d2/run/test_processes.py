"""What several processes share: the config, the batch, the model and its statistics."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mls_d2.config.defaults import get_cfg
from mls_d2.run import processes
from mls_d2.run.hooks import PreciseBN
from mls_d2.run.processes import (
    check_same_config,
    distribute,
    scale_to_processes,
    share_statistics,
)
from tests.two_processes import BACKENDS, run_in_two


def test_processes_with_different_configs_are_named_with_the_keys(monkeypatch, refuses):
    cfg, other = get_cfg(), get_cfg()
    other.SOLVER.BASE_LR = 0.5
    check_same_config(cfg)
    texts = [cfg.dump(), cfg.dump(), other.dump()]
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda text: texts)
    with refuses("different-configs") as caught:
        check_same_config(cfg)
    first, keys, _ = str(caught.value).splitlines()
    assert "processes 0 and 2" in first
    assert keys.strip() == "SOLVER.BASE_LR: 0.001 and 0.5"


def config(reference: int):
    cfg = get_cfg()
    cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH = reference, 256
    cfg.SOLVER.BASE_LR, cfg.SOLVER.CHECKPOINT_PERIOD = 0.3, 4620
    return cfg


@pytest.mark.parametrize(
    ("world_size", "batch", "lr", "period"), [(1, 32, 0.0375, 36960), (16, 512, 0.6, 2310)]
)
def test_a_process_keeps_its_images_and_the_rate_is_scaled(world_size, batch, lr, period):
    cfg = config(8)
    solver = (scaled := scale_to_processes(cfg, world_size)).SOLVER
    got = [solver.IMS_PER_BATCH, solver.BASE_LR, solver.CHECKPOINT_PERIOD]
    assert got == [batch, pytest.approx(lr), period]
    assert world_size == solver.REFERENCE_WORLD_SIZE
    assert cfg == config(8)
    assert scale_to_processes(scaled, world_size) == scaled


def test_without_another_number_nothing_changes_and_a_remainder_is_refused(refuses):
    for reference, world_size in ((0, 4), (8, 8)):
        assert scale_to_processes(config(reference), world_size) == config(reference)
    with refuses("bad-value", "IMS_PER_BATCH 256 is not divisible by 6"):
        scale_to_processes(config(6), 1)


def one_of_two(rank):
    """Return gradients of a distributed model, and statistics before and after they are shared."""
    torch.manual_seed(rank)
    model = nn.Linear(3, 1)
    model.register_buffer("rows", torch.rand(2))
    wrapped = distribute(model, model.weight.device)
    images = rank + torch.randn(4, 3)
    wrapped(images).sum().backward()
    network = nn.Sequential(nn.BatchNorm2d(3, momentum=1.0), nn.BatchNorm2d(3))
    pictures = rank + torch.randn(4, 3, 5, 5)
    network(pictures)

    def running():
        return network[0].running_mean.clone()

    found = {"state": dict(model.state_dict()), "grad": model.weight.grad, "images": images}
    found["own"] = running()
    share_statistics(network)
    found["shared"] = running()
    PreciseBN(1, network, [2 * pictures], 1).update_stats()
    found |= {"precise": running(), "wrapped": isinstance(wrapped, DistributedDataParallel)}
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_processes_have_the_main_ones_tensors_and_mean_gradients(backend):
    first, second = run_in_two(one_of_two, backend)
    assert first["wrapped"]
    torch.testing.assert_close(first["state"], second["state"], rtol=0, atol=0)
    mean = (first["images"].sum(0) + second["images"].sum(0)) / 2
    for found in (first, second):
        torch.testing.assert_close(found["grad"][0], mean)
        torch.testing.assert_close(found["shared"], first["own"])
        torch.testing.assert_close(found["precise"], 2 * first["own"])
    assert not torch.allclose(first["own"], second["own"])


@pytest.mark.parametrize(("device", "expected"), [("cuda", [1]), ("cuda:0", [0]), ("cpu", None)])
def test_a_distributed_model_is_on_the_current_gpu_of_its_process(monkeypatch, device, expected):
    def wrap(model, device_ids=None, broadcast_buffers=True):
        return device_ids

    monkeypatch.setattr(processes, "DistributedDataParallel", wrap)
    monkeypatch.setattr(processes.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert distribute(nn.Linear(1, 1), torch.device(device)) == expected


def test_one_process_keeps_its_model_and_its_statistics():
    network = nn.BatchNorm2d(3)
    network(torch.randn(4, 3, 5, 5))
    before = network.running_mean.clone()
    share_statistics(network)
    assert torch.equal(network.running_mean, before)
    assert distribute(network, torch.device("cpu")) is network
