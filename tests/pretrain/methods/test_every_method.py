"""What every registered method promises; a new method is tested here without a further line."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from mls_d2.config.defaults import get_cfg
from mls_d2.config.loading import load_cfg
from pretrain.batchnorm import BatchShuffle
from pretrain.encoder import move_towards
from pretrain.methods import METHODS, build_method
from pretrain.methods.base import DictionaryMethod
from tests.pretrain.methods.tiny import (
    PYRAMIDS,
    VIEWS,
    disturb,
    make_batch,
    make_frozen,
    make_method,
)

CONFIGS = Path(__file__).resolve().parents[3] / "pretrain" / "configs"
NAMES = METHODS.names()
WITH_KEYS = [name for name in NAMES if METHODS.get(name).has_keys]
DICTIONARY = [name for name in NAMES if issubclass(METHODS.get(name), DictionaryMethod)]
MULTI_CROP = [name for name in DICTIONARY if METHODS.get(name).takes_local_views]


@pytest.fixture
def views(request, views):
    """The views of all method tests; more or larger ones for methods that need them."""
    name = request.node.callspec.params["name"]
    if name in VIEWS:
        return tuple(torch.randn(VIEWS[name], *views[0].shape, dtype=torch.float64))
    if name not in PYRAMIDS:
        return views
    return tuple(torch.nn.functional.interpolate(view, scale_factor=32) for view in views)


def total(method, batch) -> torch.Tensor:
    return torch.stack(list(method(batch).weighted().values())).sum()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_online_weight_and_no_other(name, views):
    method = make_method(name)
    if name in WITH_KEYS:
        disturb(method.momentum_encoder)
    total(method, make_batch(views)).backward()
    reached = {key for key, p in method.named_parameters() if p.grad is not None}
    assert reached == {key for key, p in method.named_parameters() if p.requires_grad}
    assert not any(key.startswith("momentum_encoder") for key in reached)
    # An offset that all embeddings share moves no correlation, and may have a gradient of 0.
    for key in reached:
        assert "bias" in key or method.get_parameter(key).grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_metrics_are_finite_scalars_and_metrics_have_no_gradient(name, views):
    output = make_method(name)(make_batch(views))
    assert output.weights.keys() <= output.losses.keys()
    for values in (output.losses, output.metrics):
        assert all(value.shape == () and value.isfinite() for value in values.values())
    assert not any(value.requires_grad for value in output.metrics.values())
    assert (output.labels is not None) == METHODS.get(name).has_labels


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_makes_another_instance_the_same(name, views):
    one, other = make_method(name), make_method(name)
    one.enqueue(one(make_batch(views)).keys)
    other.load_state_dict(one.state_dict())
    results = [total(method, make_batch(views, progress=0.3)) for method in (one, other)]
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_is_exported_by_default(name):
    method = make_method(name)
    if "export" not in vars(METHODS.get(name)):
        backbone = method.encoder.backbone.state_dict()
        assert method.export().keys() == backbone.keys()
        assert all(torch.equal(value, backbone[key]) for key, value in method.export().items())


@pytest.mark.parametrize("name", WITH_KEYS)
def test_keys_come_from_the_momentum_encoder_and_follow_its_schedule(name, views):
    method = make_method(name, momentum=0.5, momentum_schedule="cosine")
    disturb(method.momentum_encoder)
    batch = make_batch(views, progress=0.5)
    average = next(method.momentum_encoder.backbone.parameters())
    before = average.clone()
    method(batch)
    method.after_optimizer_step()
    # Half-way along the cosine from 0.5 to 1.
    online = next(method.encoder.backbone.parameters())
    torch.testing.assert_close(average, 0.75 * before + 0.25 * online)
    assert method.diagnostics()["momentum"].item() == pytest.approx(0.75)
    inputs = (views[1], batch.extras["boxes"][:, :, 1, :, :4])[: 2 if name == "soco" else 1]
    assert not any(rows.requires_grad for rows in method.keys(*inputs))


@pytest.mark.parametrize("name", WITH_KEYS)
def test_the_momentum_encoder_moves_before_it_encodes_or_after_the_optimizers_step(name, views):
    method, moved = make_method(name, momentum=0.5), make_method(name)
    disturb(method.momentum_encoder)
    moved.load_state_dict(method.state_dict())
    if name not in ("byol", "dino", "lewel", "orl", "self_emd"):
        move_towards(moved.momentum_encoder, moved.encoder, 0.5)
    moved.options = dataclasses.replace(moved.options, momentum=1.0)
    got, expected = (made(make_batch(views)).losses for made in (method, moved))
    for key, loss in expected.items():
        torch.testing.assert_close(got[key], loss)


@pytest.mark.parametrize("name", ["mocov3", "pixpro", "slotcon", "vicreg"])
def test_residual_blocks_start_as_the_identity_if_the_authors_do(name):
    block = BottleneckBlock(8, 8, bottleneck_channels=4, norm="BN")
    options = METHODS.get(name).Options
    small = {key: 4 for key in ("projector_dim", "hidden_dim") if hasattr(options, key)}
    method = METHODS.get(name)(block, 8, options(**small))
    rows = torch.rand(2, 8, 5, 5)
    assert torch.equal(method.encoder.backbone(rows), rows)


@pytest.mark.parametrize("name", WITH_KEYS)
def test_keys_come_back_in_order_from_a_shuffled_batch(name, views):
    method = make_frozen(name)
    method.eval()  # BatchNorm in other company gives other keys.
    straight = method(make_batch(views))
    method.shuffle = BatchShuffle(seed=3)
    method.before_step(0)
    assert method.shuffle.order(4).tolist() != [0, 1, 2, 3]
    mixed = method(make_batch(views))
    for key, loss in straight.losses.items():
        torch.testing.assert_close(mixed.losses[key], loss)
    for table, rows in straight.keys.items():
        torch.testing.assert_close(mixed.keys[table], rows)


@pytest.mark.parametrize("name", DICTIONARY)
def test_rows_enter_the_dictionary_after_the_loss(name, views):
    method = make_method(name)
    tables = {table: method.dictionary[table].clone() for table in method.dictionary.names}
    output = method(make_batch(views))
    for table, before in tables.items():
        torch.testing.assert_close(method.dictionary[table], before)
    method.enqueue(output.keys)
    for table, before in tables.items():
        unit = nn.functional.normalize(output.keys[table].double(), dim=1)
        torch.testing.assert_close(method.dictionary[table][:4], unit, atol=1e-6, rtol=0)
        torch.testing.assert_close(method.dictionary[table][4:], before[4:])


@pytest.mark.parametrize("name", MULTI_CROP)
def test_local_views_are_further_queries_of_their_images_key(name, views):
    method = make_frozen(name)
    local = [torch.randn(4, 3, 1, 1, dtype=torch.float64) for _ in range(2)]
    got, plain = method(make_batch([*views, *local])), method(make_batch(views))
    # Each local view alone, in the place of the first views: all queries have the same weight.
    alone = [method(make_batch([view, views[1]])) for view in local]
    for key, loss in got.losses.items():
        every = [plain.losses[key], *(output.losses[key] for output in alone)]
        torch.testing.assert_close(loss, sum(every) / 3)
    for key in ("positive_similarity", "negative_similarity", "feature_std"):
        torch.testing.assert_close(got.metrics[key], plain.metrics[key])
    assert got.labels is None or torch.equal(got.labels, plain.labels)
    for table, rows in plain.keys.items():
        torch.testing.assert_close(got.keys[table], rows)


@pytest.mark.parametrize("name", NAMES)
def test_its_quick_config_builds_it(name):
    cfg = load_cfg(str(CONFIGS / f"{name}_quick.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    with torch.device("meta"):  # Shapes alone: no numbers are needed.
        made = build_method(cfg)
    assert type(made) is METHODS.get(name)
    assert made.encoder.backbone.stem.conv1.weight.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_default_that_its_rule_allows_and_a_meaning(name):
    keys = list(METHODS.get(name).Options.config_keys())
    for key in keys:
        assert key.rule.holds(key.default), key.name
        assert key.about, key.name
    fields = dataclasses.fields(METHODS.get(name).Options)
    assert len({key.name for key in keys}) == len(keys) == len(fields)
    cfg = get_cfg()
    assert METHODS.get(name).Options.from_config(cfg) == METHODS.get(name).Options()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_one_file_with_a_source(name):
    text = Path(inspect.getfile(METHODS.get(name))).read_text()
    assert "arXiv" in text.partition("\n\n")[0] or "arXiv" in text[:400]


@pytest.mark.parametrize(
    ("name", "key", "value", "named"),
    [
        ("simclr", "PRETRAIN.BATCH_NORM", "shuffled", "PRETRAIN.BATCH_NORM"),
        ("byol", "PRETRAIN.AUGMENT.LOCAL_CROPS", "4", "LOCAL_CROPS"),
        ("byol", "MOCO.MOMENTUM", "1.0", r"MOCO.MOMENTUM must be in \[0, 1\), got 1.0"),
        ("orl", "PRETRAIN.AUGMENT.LOCAL_CROPS", "3", "LOCAL_CROPS to 4, got 3"),
        ("byol", "BYOL.OUT_DIM", "0", "BYOL.OUT_DIM must be >= 1, got 0"),
        ("densecl", "DENSECL.LAMBDA", "1.5", r"DENSECL.LAMBDA must be in \[0, 1\], got 1.5"),
        ("densecl", "MOCO.DICTIONARY_SIZE", "8", "MOCO.DICTIONARY_SIZE is 8"),
        ("revisiting", "REVISITING.K", "4096", "REVISITING.K must be in"),
        ("mls", "MLS.K", "4096", "MLS.K must be in"),
        ("mls", "MLS.LOSS", "bse", "MLS.LOSS must be one of 'none'"),
        ("simclr", "SIMCLR.TEMPERATURE", "0.0", "SIMCLR.TEMPERATURE must be > 0, got 0.0"),
        ("simsiam", "SIMSIAM.PROJECTOR_DIM", "0", "SIMSIAM.PROJECTOR_DIM must be >= 1"),
        ("barlowtwins", "BARLOWTWINS.SCALE", "0.0", "BARLOWTWINS.SCALE must be > 0"),
        ("lewel", "LEWEL.GROUPS", "3", "LEWEL.GROUPS"),
        ("lewel", "LEWEL.TEMPERATURE", "0.0", "LEWEL.TEMPERATURE"),
        ("lewel", "LEWEL.INSTANCE_WEIGHT", "1.5", "LEWEL.INSTANCE_WEIGHT"),
        ("pixpro", "PIXPRO.LOSS", "both", "PIXPRO.LOSS"),
        ("pixpro", "PIXPRO.THRESHOLD", "0.0", "PIXPRO.THRESHOLD"),
        ("pixpro", "PIXPRO.TRANSFORM_LAYERS", "3", "PIXPRO.TRANSFORM_LAYERS"),
        ("pixpro", "PIXPRO.INSTANCE_WEIGHT", "-1.0", "PIXPRO.INSTANCE_WEIGHT"),
        ("pixpro", "PRETRAIN.AUGMENT.LOCAL_CROPS", "2", "LOCAL_CROPS to 0, got 2"),
        ("resim", "MODEL.RESNETS.OUT_FEATURES", "['res5']", "OUT_FEATURES"),
        ("resim", "MODEL.RESNETS.OUT_FEATURES", "['res4', 'res5']", "OUT_FEATURES"),
        ("resim", "PRETRAIN.AUGMENT.CROP_SIZE", "32", "CROP_SIZE must be >= 48"),
        ("resim", "RESIM.C4_WINDOWS", "(64, 16)", "above the side of RESIM's windows"),
        ("resim", "RESIM.C3_WINDOWS", "(24, 0)", "RESIM.C3_WINDOWS"),
        ("resim", "RESIM.C3_IMAGES", "0", "RESIM.C3_IMAGES"),
        ("resim", "RESIM.NECK", "c5", "RESIM.NECK"),
        ("self_emd", "SELF_EMD.EPSILON", "0.0", "SELF_EMD.EPSILON"),
        ("self_emd", "SELF_EMD.ITERATIONS", "0", "SELF_EMD.ITERATIONS"),
        ("setsim", "SETSIM.ATTENTION", "1.1", "SETSIM.ATTENTION"),
        ("setsim", "SETSIM.SIMILARITY", "-2.0", "SETSIM.SIMILARITY"),
        ("setsim", "SETSIM.DISTANCE", "0.0", "SETSIM.DISTANCE"),
        ("setsim", "DENSECL.LAMBDA", "1.5", "DENSECL.LAMBDA"),
        ("slotcon", "SLOTCON.NUM_PROTOTYPES", "1", "SLOTCON.NUM_PROTOTYPES"),
        ("slotcon", "PRETRAIN.BATCH_NORM_GROUPS", "2", "BATCH_NORM_GROUPS"),
        ("soco", "MODEL.RESNETS.OUT_FEATURES", "['res5']", "OUT_FEATURES"),
        ("soco", "MODEL.RESNETS.OUT_FEATURES", "['res5', 'res4', 'res3', 'res2']", "OUT_FEATURES"),
        ("soco", "SOCO.BOXES", "0", "SOCO.BOXES"),
        ("soco", "SOCO.JITTER_PROB", "1.5", "SOCO.JITTER_PROB"),
        ("soco", "SOCO.LEVEL_LIMITS", "(96, 48, 192)", "SOCO.LEVEL_LIMITS"),
        ("soco", "SOCO.LEVEL_LIMITS", "(48, 96)", "SOCO.LEVEL_LIMITS"),
        ("soco", "SOCO.HEAD_CONVS", "-1", "SOCO.HEAD_CONVS"),
        ("swav", "SWAV.NUM_PROTOTYPES", "65", "SWAV.NUM_PROTOTYPES must be at most .*64"),
        ("swav", "SWAV.QUEUE_SIZE", "63", "SWAV.QUEUE_SIZE must be 0, or at least .*64"),
        ("swav", "SWAV.EPSILON", "0.0", "SWAV.EPSILON must be > 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(name, key, value, named, refuses):
    cfg = load_cfg(str(CONFIGS / f"{name}_quick.yaml"), [key, value])
    with refuses("bad-value") as caught:
        METHODS.get(name).check_config(cfg)
    assert caught.match(named)


def test_keys_of_other_methods_are_not_checked():
    strange = ["MOCO.DICTIONARY_SIZE", "3", "MLS.K", "99", "SIMCLR.TEMPERATURE", "-1.0"]
    METHODS.get("byol").check_config(load_cfg(str(CONFIGS / "byol_quick.yaml"), strange))


def test_an_unknown_method_is_refused_with_the_nearest(refuses):
    with refuses("unknown-name", "'mocov2'"):
        build_method(load_cfg(None, ["PRETRAIN.METHOD", "moco"]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("byol", [(4096, 128), (256, 4096), (4096, 256), (256, 4096)]),
        ("simclr", [(2048, 128), (128, 2048)]),
        ("simsiam", [(2048, 128), (2048, 2048), (2048, 2048), (512, 2048), (2048, 512)]),
        ("barlowtwins", [(8192, 128), (8192, 8192), (8192, 8192)]),
        ("mocov2", [(2048, 128), (256, 2048)]),
        ("mocov3", [(4096, 128), (256, 4096), (4096, 256), (256, 4096)]),
        ("lewel", 2 * [(4096, 128), (256, 4096)] + 2 * [(4096, 256), (256, 4096)]),
        ("swav", [(2048, 128), (128, 2048), (3000, 128)]),
        ("dino", [(2048, 128), (2048, 2048), (256, 2048), (65536, 256)]),
        ("vicreg", [(8192, 128), (8192, 8192), (8192, 8192)]),
    ],
)
def test_the_widths_of_the_heads_are_those_of_the_papers(name, expected):
    with torch.device("meta"):
        made = METHODS.get(name)(nn.Identity(), 128, METHODS.get(name).Options())
    heads = ("encoder.projector", "predictor", "aligned_predictor", "prototypes")
    layers = [(name, layer) for name, layer in made.named_modules() if name.startswith(heads)]
    linear = [layer for _, layer in layers if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in linear] == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("mocov2", 4097), ("simclr", 31), ("byol", None), ("barlowtwins", None)]
)
def test_the_chance_level_is_known(name, expected):
    with torch.device("meta"):
        made = METHODS.get(name)(nn.Identity(), 8, METHODS.get(name).Options())
    assert made.candidates(16) == expected
