"""What all methods promise: which networks learn, which follow, and what a config may say."""

import copy

import pytest
import torch
from torch import nn

from mls_d2.config.defaults import get_cfg
from mls_d2.core.errors import UserError
from pretrain.methods import METHODS, DictionaryMethod, MomentumMethod, build_method
from pretrain.methods.barlow_twins import BarlowTwins
from pretrain.methods.base import keys_of_queries, spread
from pretrain.methods.byol import BYOL
from pretrain.methods.densecl import DenseCL
from pretrain.methods.mls import MLS
from pretrain.methods.moco import MoCo
from pretrain.methods.revisiting import Revisiting
from pretrain.methods.simclr import SimCLR
from pretrain.methods.simsiam import SimSiam

MOCO = {"embedding_dim": 4, "dictionary_size": 8, "temperature": 0.2, "momentum": 0.9}
LABELS = {"feature_dim": 6, "loss_weight": 0.5}
MAKE = {
    "mocov2": lambda net: MoCo(net, nn.Linear(6, 4), **MOCO),
    "mls": lambda net: MLS(net, nn.Linear(6, 4), **MOCO, **LABELS, num_positives=2),
    "revisiting": lambda net: Revisiting(net, nn.Linear(6, 4), **MOCO, **LABELS, num_neighbors=2),
    "densecl": lambda net: DenseCL(
        net, nn.Linear(6, 4), nn.Conv2d(6, 4, 1), **MOCO, dense_weight=0.5
    ),
    "byol": lambda net: BYOL(net, nn.Linear(6, 4), nn.Linear(4, 4), momentum=0.9),
    "simclr": lambda net: SimCLR(net, nn.Linear(6, 4), temperature=0.1),
    "simsiam": lambda net: SimSiam(net, nn.Linear(6, 4), nn.Linear(4, 4)),
    "barlowtwins": lambda net: BarlowTwins(net, nn.Linear(6, 4), redundancy_weight=0.1, scale=1.0),
}
MOMENTUM = [name for name, method in METHODS.items() if issubclass(method, MomentumMethod)]
DICTIONARY = [name for name, method in METHODS.items() if issubclass(method, DictionaryMethod)]
MULTI_CROP = [name for name, method in METHODS.items() if method.takes_local_views]


def disturb(*modules: nn.Module) -> None:
    with torch.no_grad():
        for module in modules:
            for weight in module.parameters():
                weight.add_(torch.randn_like(weight))


@pytest.fixture
def method(request, backbone):
    """Builds a method whose momentum copies, where there are any, differ from the online ones."""
    made = MAKE[request.param](backbone).double()
    if isinstance(made, MomentumMethod):
        disturb(made.pair.momentum_backbone, made.pair.momentum_projector)
        made.pair.momentum = 1.0  # Nothing moves unless a test says so.
    return made


def test_every_method_is_made_by_these_tests():
    assert MAKE.keys() == METHODS.keys()
    assert MOMENTUM == ["mocov2", "mls", "densecl", "revisiting", "byol"]
    assert MULTI_CROP == ["mocov2", "mls", "revisiting"]


@pytest.mark.parametrize("method", METHODS, indirect=True)
def test_gradients_reach_every_online_weight_and_no_other(method, views):
    sum(method(*views, epoch=0.0).losses.values()).backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None}
    expected = {name for name, _ in method.named_parameters() if "momentum_" not in name}
    assert reached == expected
    # An offset that all embeddings share moves no correlation, and may have a gradient of 0.
    for name, parameter in method.named_parameters():
        assert "momentum_" in name or "bias" in name or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("method", DICTIONARY, indirect=True)
def test_keys_come_from_the_momentum_copies_and_not_from_the_online_network(method, views):
    keys = method(*views, epoch=0.0).keys
    disturb(method.pair.backbone, method.pair.projector)
    for table, rows in method(*views, epoch=0.0).keys.items():
        assert not rows.requires_grad
        torch.testing.assert_close(rows, keys[table])
    for part in (method.pair.momentum_backbone, method.pair.momentum_projector):
        disturb(part)
    for table, rows in method(*views, epoch=0.0).keys.items():
        assert (rows - keys[table]).abs().max() > 1e-2, table


@pytest.mark.parametrize("method", DICTIONARY, indirect=True)
def test_the_pair_moves_between_queries_and_keys_and_rows_enter_after_the_loss(method, views):
    method.pair.momentum = 0.5
    expected = (method.pair.backbone.weight + method.pair.momentum_backbone.weight).detach() / 2
    tables = {name: method.dictionary[name].clone() for name in method.dictionary.names}
    output = method(*views, epoch=0.0)
    torch.testing.assert_close(method.pair.momentum_backbone.weight, expected)
    method.pair.momentum = 1.0
    again = method.pair.keys(views[1])[-1]  # From the copies as they are after their move.
    last = output.keys["dense"] if "dense" in output.keys else output.keys["z"]
    rows = again.flatten(2).mean(dim=2) if again.ndim == 4 else again
    cosines = torch.cosine_similarity(rows, last.double(), dim=1)
    torch.testing.assert_close(cosines, torch.ones(4).double(), atol=1e-6, rtol=0)
    for name, before in tables.items():
        torch.testing.assert_close(method.dictionary[name], before)
    method.enqueue(output.keys)
    for name, before in tables.items():
        assert not torch.equal(method.dictionary[name][:4], before[:4])
        torch.testing.assert_close(method.dictionary[name][4:], before[4:])


@pytest.mark.parametrize("method", MULTI_CROP, indirect=True)
def test_local_views_are_further_queries_of_their_images_key(method, views):
    local = torch.randn(4, 2, 3, 1, 1, dtype=torch.float64)
    got = method(*views, epoch=0.0, local_views=local)
    plain = method(*views, epoch=0.0)
    # Each local view alone, in the place of the first views: all queries have the same weight.
    alone = [method(local[:, i], views[1], epoch=0.0) for i in range(2)]
    for name, loss in got.losses.items():
        every = [plain.losses[name], *(output.losses[name] for output in alone)]
        torch.testing.assert_close(loss, sum(every) / 3)
    for name, value in plain.metrics.items():
        if name.endswith("_similarity") and "label" not in name or name == "feature_std":
            torch.testing.assert_close(got.metrics[name], value)
    assert got.labels is None or torch.equal(got.labels, plain.labels)
    for table, rows in plain.keys.items():
        torch.testing.assert_close(got.keys[table], rows)


def test_the_keys_of_local_queries_are_their_images(views):
    keys = torch.tensor([[1.0], [2.0]])
    local = torch.zeros(2, 3, 3, 1, 1)
    assert keys_of_queries(keys, local).flatten().tolist() == [1, 2, 1, 1, 1, 2, 2, 2]
    assert keys_of_queries(keys, None) is keys


def test_the_spread_of_rows():
    even = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 4]])
    # A channel holds 1, 0, 0, 0: standard deviation 1/2, times the root of four channels.
    assert spread(even).item() == pytest.approx(1)
    assert spread(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-6)


def config(name: str, **changes):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(
        ["PRETRAIN.METHOD", name, "MODEL.BACKBONE.NAME", "build_resnet_backbone"]
        + ["MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.RESNETS.RES2_OUT_CHANNELS", 16]
        + ["MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 4]
        + ["PRETRAIN.BATCH_NORM", "sync"]
    )
    cfg.merge_from_list(
        [w for key, value in changes.items() for w in (key.replace("__", "."), value)]
    )
    return cfg


@pytest.mark.parametrize("name", METHODS)
def test_a_config_builds_the_method_with_an_encoder_to_export(name):
    small = {"MOCO__PROJECTOR_HIDDEN_DIM": 8, "BYOL__HIDDEN_DIM": 8, "SIMSIAM__PROJECTOR_DIM": 8}
    small |= {"SIMCLR__PROJECTOR_HIDDEN_DIM": 8, "BARLOWTWINS__PROJECTOR_DIM": 8}
    made = build_method(config(name, **small))
    assert type(made) is METHODS[name]
    names = dict(made.named_parameters())
    prefix = "pair" if name in MOMENTUM else "encoder"
    assert names[f"{prefix}.backbone.stem.conv1.weight"] is (
        made.online_encoder.backbone.stem.conv1.weight
    )
    chance = {"byol": None, "simsiam": None, "barlowtwins": None, "simclr": 31}
    assert made.candidates(16) == chance.get(name, 4097)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("byol", [(4096, 128), (256, 4096), (4096, 256), (256, 4096)]),
        ("simclr", [(2048, 128), (128, 2048)]),
        ("simsiam", [(2048, 128), (2048, 2048), (2048, 2048), (512, 2048), (2048, 512)]),
        ("barlowtwins", [(8192, 128), (8192, 8192), (8192, 8192)]),
    ],
)
def test_the_widths_of_the_heads_are_those_of_the_papers(name, expected):
    with torch.device("meta"):  # Shapes alone: a gigabyte of numbers is not needed.
        made = build_method(config(name))
    heads = [made.online_encoder.projector, getattr(made, "predictor", [])]
    linear = [layer for head in heads for layer in head if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in linear] == expected


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("simclr", {"PRETRAIN__BATCH_NORM": "shuffled"}, "'simclr' does not have: take sync or"),
        ("byol", {"PRETRAIN__AUGMENT__LOCAL_CROPS": 4}, "'byol' is defined on two views: set"),
        ("byol", {"MOCO__MOMENTUM": 1.0}, r"MOCO.MOMENTUM must be in \[0, 1\), got 1.0"),
        ("byol", {"BYOL__OUT_DIM": 0}, "BYOL.OUT_DIM must be >= 1, got 0"),
        ("densecl", {"DENSECL__LAMBDA": 1.5}, r"DENSECL.LAMBDA must be in \[0, 1\], got 1.5"),
        ("densecl", {"MOCO__DICTIONARY_SIZE": 100}, "the batch must divide the dictionary"),
        ("revisiting", {"REVISITING__K": 4096}, r"REVISITING.K must be in .*\[1, 4096\), got 4096"),
        ("revisiting", {"REVISITING__WEIGHT": -1.0}, "REVISITING.WEIGHT must be >= 0"),
        ("simclr", {"SIMCLR__TEMPERATURE": 0.0}, "SIMCLR.TEMPERATURE must be > 0, got 0.0"),
        ("simsiam", {"SIMSIAM__PROJECTOR_DIM": 0}, "SIMSIAM.PROJECTOR_DIM must be >= 1"),
        ("barlowtwins", {"BARLOWTWINS__SCALE": 0.0}, "BARLOWTWINS.SCALE must be > 0"),
    ],
)
def test_values_out_of_range_are_refused(name, changes, message):
    with pytest.raises(UserError, match=message):
        METHODS[name].check_config(config(name, **changes))


def test_keys_of_other_methods_are_not_looked_at():
    strange = {"MOCO__DICTIONARY_SIZE": 3, "MLS__K": 99, "SIMCLR__TEMPERATURE": -1.0}
    METHODS["byol"].check_config(config("byol", **strange))


def test_an_encoder_is_copied_deeply(backbone):
    method = MAKE["byol"](backbone)
    before = copy.deepcopy(method.pair.momentum_backbone.weight)
    disturb(method.pair.backbone)
    torch.testing.assert_close(method.pair.momentum_backbone.weight, before)
