"""Split and shuffled BatchNorm against processes simulated one after the other."""

import copy
import logging
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from mls_d2.config.defaults import get_cfg
from pretrain import batchnorm
from pretrain.batchnorm import BatchShuffle, check_batchnorm, set_up_batchnorm, split_batchnorm
from pretrain.encoder import Encoder
from tests.pretrain.methods.tiny import make_method


def network() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5)
    )
    return made.double()


def batch(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(1)).double()


def test_a_split_batch_trains_as_processes_with_a_part_each():
    whole, parts = split_batchnorm(network(), 2), [network() for _ in range(2)]
    out = whole(batch())
    out.square().sum().backward()
    expected = [part(images) for part, images in zip(parts, batch().chunk(2), strict=True)]
    torch.testing.assert_close(out, torch.cat(expected))
    for result in expected:
        result.square().sum().backward()
    for name, parameter in whole.named_parameters():
        gradients = [part.get_parameter(name).grad for part in parts]
        torch.testing.assert_close(parameter.grad, gradients[0] + gradients[1])
    for name in ("1.running_mean", "1.running_var", "4.running_mean", "4.running_var"):
        kept = [part.get_buffer(name) for part in parts]
        torch.testing.assert_close(whole.get_buffer(name), (kept[0] + kept[1]) / 2)


def test_splitting_keeps_values_and_evaluates_as_before():
    plain = network()
    plain(batch())
    split = split_batchnorm(copy.deepcopy(plain), 4)
    assert split.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(split.eval()(batch(3)), plain.eval()(batch(3)))


def test_a_norm_without_scale_and_offset_is_split_too():
    rows = batch().mean(dim=(2, 3))
    split = split_batchnorm(nn.BatchNorm1d(3, affine=False).double(), 2)
    expected = torch.cat([nn.BatchNorm1d(3, affine=False).double()(part) for part in rows.chunk(2)])
    torch.testing.assert_close(split(rows), expected)
    assert not list(split.parameters())


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match="3 groups do not divide a batch of 8"):
        split_batchnorm(network(), 3)(batch())


def test_the_shuffle_restores_the_order_and_changes_with_the_iteration():
    shuffle, rows = BatchShuffle(seed=3), torch.arange(16.0).view(16, 1)
    orders = []
    for shuffle.iteration in (0, 1):
        mixed = shuffle.shuffle(rows)
        assert not torch.equal(mixed, rows)
        assert torch.equal(mixed.sort(dim=0).values, rows)
        assert torch.equal(shuffle.restore(mixed), rows)
        orders.append(mixed)
    assert not torch.equal(*orders)


def test_processes_shuffle_as_one_process_does(monkeypatch):
    rows = torch.arange(12.0).view(12, 1)
    whole = BatchShuffle(seed=3).shuffle(rows)
    for rank in range(3):
        shuffle = BatchShuffle(seed=3, rank=rank, world_size=3)
        own = slice(4 * rank, 4 * rank + 4)
        monkeypatch.setattr(batchnorm, "gather", lambda _: rows)
        assert torch.equal(shuffle.shuffle(rows[own]), whole[own])
        monkeypatch.setattr(batchnorm, "gather", lambda _: whole)
        assert torch.equal(shuffle.restore(whole[own]), rows[own])


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": self.norm(images)}


def test_shuffled_keys_are_normalised_in_other_company_and_come_back_in_order():
    method = make_method("mocov2")
    method.set_encoder(Encoder(split_batchnorm(Flat(), 2), nn.Identity()).double())
    straight, _ = method.keys(batch())
    method.shuffle = BatchShuffle(seed=3)
    order = method.shuffle.order(8)
    got, z = method.keys(batch())
    expected = torch.empty_like(got)
    for company in order.chunk(2):
        images = batch()[company]
        mean, var = images.mean(dim=(0, 2, 3)), images.var(dim=(0, 2, 3), unbiased=False)
        expected[company] = (images.mean(dim=(2, 3)) - mean) / (var + 1e-5).sqrt()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(z, expected)
    assert not torch.allclose(got, straight)


def config(mode: str = "shuffled", groups: int = 1, images: int = 8):
    cfg = get_cfg()
    cfg.PRETRAIN.BATCH_NORM, cfg.PRETRAIN.BATCH_NORM_GROUPS = mode, groups
    cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.DEVICE = images, "cpu"
    return cfg


@pytest.mark.parametrize(
    ("changes", "world_size"),
    [
        ({"mode": "shuffel"}, 1),
        ({"groups": 0}, 1),
        ({"groups": 8}, 2),
        ({"mode": "sync", "groups": 2}, 1),
        ({"mode": "sync"}, 2),
    ],
)
def test_what_cannot_be_is_refused(changes, world_size, refuses):
    with refuses("bad-value"):
        check_batchnorm(config(**changes), world_size)


def test_synchronised_norms_need_gpus_that_are_there(refuses, monkeypatch):
    cfg = config("sync")
    cfg.MODEL.DEVICE = "cuda"
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        with nullcontext() if there else refuses("bad-value"):
            check_batchnorm(cfg, 2)


def test_synchronised_norms_are_not_compiled(refuses):
    cfg = config("sync")
    cfg.MODEL.DEVICE, cfg.PRETRAIN.COMPILE = "cuda", True
    with refuses("bad-value", "PRETRAIN.COMPILE"):
        check_batchnorm(cfg, 2)
    check_batchnorm(cfg, 1)


@pytest.mark.parametrize(
    ("mode", "groups", "world_size", "shuffles", "warns"),
    [
        ("shuffled", 1, 1, False, True),
        ("shuffled", 4, 1, True, False),
        ("shuffled", 1, 4, True, False),
        ("local", 4, 1, False, True),
        ("local", 1, 4, False, True),
        ("sync", 1, 1, False, True),
    ],
)
def test_a_leak_is_warned_of(caplog, mode, groups, world_size, shuffles, warns):
    caplog.set_level(logging.WARNING, logger="pretrain")
    logging.getLogger("pretrain").propagate = True
    options = {"rank": 0, "world_size": world_size}
    model, shuffle = set_up_batchnorm(Flat(), config(mode, groups), **options)
    assert (shuffle is not None) is shuffles
    assert ("leak the answer" in caplog.text) is warns
    split = [m for m in model.modules() if isinstance(m, batchnorm.SplitBatchNorm)]
    assert len(split) == (1 if groups > 1 else 0)
    # Nothing leaks without BatchNorm, or where no key is compared with other batches'.
    caplog.clear()
    silent = Flat()
    silent.contrasts_batches = False
    for module in (nn.Identity(), silent):
        set_up_batchnorm(module, config(mode, groups), **options)
    assert not caplog.records
