"""SoCo against loops over boxes and levels, its views, and the detector that gets its parts."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.backbone import FPN as Detectron2FPN
from torchvision.ops import roi_align

from mls_d2.checkpoint.backbone_file import write_backbone
from mls_d2.checkpoint.initial_weights import load_initial_weights
from mls_d2.config.loading import load_cfg
from mls_d2.convert.convert import load_backbone
from mls_d2.convert.layouts import torchvision_from_detectron2
from pretrain.batch import Batch
from pretrain.fpn import FPN
from pretrain.methods import build_method
from pretrain.methods.soco import SoCo, WholeAndCrops, box_levels, distinct, matched_rows
from pretrain.views import ViewGroup
from tests.pretrain.loops import cosine
from tests.pretrain.methods.tiny import Pyramid, make_batch, make_frozen, make_method

QUICK = "pretrain/configs/soco_quick.yaml"
TRANSFER = "transfer_configs/coco/mask_rcnn_R_50_FPN"
# SyncBN has the same tensors, and needs a GPU.
BATCH_NORM = [
    word
    for part in ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
    for word in (f"MODEL.{part}.NORM", "BN")
]
LIMITS, LEVELS = (16, 32, 48), 4
FOUR = {"res2": 2} | Pyramid.channels


@pytest.fixture
def batch() -> Batch:
    """Three views of four images; the last one is half as large."""
    generator = torch.Generator().manual_seed(3)
    views = [
        torch.randn(4, 3, side, side, generator=generator, dtype=torch.float64)
        for side in (64, 64, 32)
    ]
    return make_batch(views)


def level_loop(box: list[float], side: int) -> int:
    root = ((box[2] - box[0]) * side * (box[3] - box[1]) * side) ** 0.5
    return sum(root > limit for limit in LIMITS)


def embeddings(encoder, view: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Return z ``(L, N, K, d)`` of boxes ``(N, K, 4)``: one pass of the heads for each level."""
    maps = encoder.neck(encoder.backbone(view))[::-1]
    out = []
    for level in maps:
        size = level.shape[-1]
        regions = [boxes[n].double() * size for n in range(len(boxes))]
        pooled = roi_align(level, regions, 7, aligned=True)
        out.append(encoder.projector(encoder.box_head(pooled)).view(*boxes.shape[:2], -1))
    return torch.stack(out)


def test_the_loss_is_that_of_the_paper_over_both_pairs_in_both_orders(batch):
    method, boxes = make_frozen("soco"), batch.extras["boxes"]
    sides, total = (64, 64, 32), 0.0
    for pair, other in ((0, 1), (1, 2)):
        sets = [boxes[:, pair, 0], boxes[:, pair, 1]]
        z, t, p = [], [], []
        for view, found in zip((0, other), sets, strict=True):
            z.append(embeddings(method.encoder, batch.views[view], found[..., :4]))
            t.append(embeddings(method.momentum_encoder, batch.views[view], found[..., :4]))
            # BatchNorm of the predictor, too, sees the rows of one level.
            p.append(
                torch.stack([method.predictor(rows.flatten(0, 1)).view_as(rows) for rows in z[-1]])
            )
        for one, two in ((0, 1), (1, 0)):
            for n in range(4):
                terms = []
                for a in sets[one][n].tolist():
                    for b in sets[two][n].tolist():
                        if a[4] == b[4]:
                            i, j = sets[one][n].tolist().index(a), sets[two][n].tolist().index(b)
                            level = level_loop(a, sides[(0, other)[one]])
                            target = level_loop(b, sides[(0, other)[two]])
                            query, key = p[one][level, n, i], t[two][target, n, j]
                            terms.append(cosine(query.tolist(), key.tolist()))
                total += -2 * sum(terms) / (len(terms) + 1e-6) / 4
    output = method(batch)
    assert set(output.losses) == {"loss_object"}
    assert output.losses["loss_object"].item() == pytest.approx(total, abs=1e-9)


def test_the_order_of_the_crops_does_not_matter(batch):
    method = make_frozen("soco")
    views, boxes = [batch.views[i] for i in (0, 2, 1)], batch.extras["boxes"].flip(1)
    turned = dataclasses.replace(batch, views=views, extras={"boxes": boxes})
    torch.testing.assert_close(method(turned).losses, method(batch).losses)


def test_levels_change_above_their_limits():
    sides = torch.tensor([47.9, 48.0, 48.1, 96.0, 96.1, 192.0, 192.1, 224.0])
    box = torch.stack([torch.zeros(8), torch.zeros(8), sides / 224, sides / 224], dim=1).double()
    assert box_levels(box, 224, (48.0001, 96.0001, 192.0001)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    exact = torch.tensor([[0.0, 0.0, 0.75, 0.75], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]])
    assert box_levels(exact, 64, (32, 48, 64)).tolist() == [1, 0, 2]
    # A view of half the size never reaches the last one, and area counts, not one side.
    assert box_levels(box, 112, (48, 96, 192)).max() == 2
    long = torch.tensor(
        [[0.0, 0.0, 1.0, 47 * 47 / 224 / 224], [0.0, 0.0, 1.0, 49 * 49 / 224 / 224]]
    )
    assert box_levels(long, 224, (48, 96, 192)).tolist() == [0, 1]


def test_matched_rows_equal_a_loop(batch):
    boxes = batch.extras["boxes"]
    for pair, sides in ((0, (64, 64)), (1, (64, 32))):
        got = matched_rows(boxes[:, pair], sides, LIMITS)
        expected = torch.zeros(4, 16, 16, dtype=torch.bool)
        for n in range(4):
            one, other = boxes[n, pair].tolist()
            for i, a in enumerate(one):
                for j, b in enumerate(other):
                    if a[4] == b[4]:
                        row = level_loop(a, sides[0]) * 4 + i
                        expected[n, row, level_loop(b, sides[1]) * 4 + j] = True
        assert torch.equal(got, expected)
        # The copy of one object makes four pairs of it, and two objects are alone.
        assert got.sum(dim=(1, 2)).tolist() == [6] * 4


def test_batch_statistics_are_over_the_boxes_of_one_level(batch):
    method, rows = make_frozen("soco"), {}
    for part in ("box_head.conv1.norm", "projector.1"):
        norm = method.encoder.get_submodule(part)
        norm.register_forward_hook(
            lambda _, inputs, __, part=part: rows.setdefault(part, []).append(len(inputs[0]))
        )
    method.predictor[1].register_forward_hook(
        lambda _, inputs, __: rows.setdefault("predictor", []).append(len(inputs[0]))
    )
    method(batch)
    # The first view twice, for each of its pairs; four levels; 4 x 4 boxes, matched or not.
    assert rows == dict.fromkeys(("box_head.conv1.norm", "projector.1", "predictor"), [16] * 16)


def test_images_without_a_common_object_add_nothing_and_are_counted(batch):
    method, boxes = make_method("soco"), batch.extras["boxes"].clone()
    boxes[1:, :, 1, :, 4] += 10  # Nothing in common but in the first image.
    boxes[3, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0, -1.0])
    some = dataclasses.replace(batch, extras={"boxes": boxes})
    metrics = method(some).metrics
    assert metrics["whole_images"].item() == 1 / 8
    assert metrics["objects"].item() == pytest.approx((7 * 3 + 1) / 8)
    # Both pairs of two images, and one of the last, whose other pair has the whole image.
    assert metrics["unmatched_images"].item() == pytest.approx(5 / 8)
    boxes[..., 0, :, 4] = 99
    output = method(dataclasses.replace(batch, extras={"boxes": boxes}))
    assert output.losses["loss_object"].item() == 0
    output.losses["loss_object"].backward()
    online = [w for name, w in method.named_parameters() if "momentum_encoder" not in name]
    assert all(weight.grad is not None and weight.grad.eq(0).all() for weight in online)


def test_numbers_are_counted_once():
    numbers = torch.tensor([[3, 3, 3], [1, 2, 1], [0, 1, 2], [-1, -1, -1]])
    assert distinct(numbers).tolist() == [1, 2, 3, 1]


def test_the_first_view_is_the_whole_image_and_flips_are_independent():
    crops = WholeAndCrops([ViewGroup(2, 32, (0.5, 1.0)), ViewGroup(1, 16, (0.2, 0.3))], 0.5)
    rng = np.random.default_rng(0)
    drawn = [crops.draw(0, 90, 120, rng) for _ in range(400)]
    assert all(
        (first.x, first.y, first.width, first.height) == (0, 0, 120, 90) for first, *_ in drawn
    )
    flips = np.array([[crop.flipped for crop in views] for views in drawn], dtype=float)
    np.testing.assert_allclose(flips.mean(axis=0), 0.5, atol=0.08)
    assert np.abs(np.corrcoef(flips.T) - np.eye(3)).max() < 0.15
    shares = np.array([[crop.width * crop.height / 10800 for crop in v[1:]] for v in drawn])
    assert (shares.min(axis=0) > [0.45, 0.18]).all()
    assert shares[:, 1].max() < 0.33


@pytest.mark.parametrize("norm", ["", "BN"])
def test_the_fpn_is_detectron2s(norm):
    backbone = Pyramid(FOUR)
    theirs, ours = Detectron2FPN(backbone, [*FOUR], 5, norm=norm), FPN(FOUR, 5, norm=norm)
    loaded = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert all(key.startswith("bottom_up") for key in loaded.missing_keys)
    images = torch.randn(2, 3, 64, 64)
    expected = theirs(images)
    for got, level in zip(ours(backbone(images)), ("p5", "p4", "p3", "p2"), strict=True):
        torch.testing.assert_close(got, expected[level])


def test_the_fpn_takes_views_whose_sides_do_not_halve():
    backbone, fpn = Pyramid(FOUR), FPN(FOUR, 5)
    maps = fpn(backbone(torch.randn(2, 3, 112, 112)))
    assert [level.shape[-1] for level in maps] == [4, 7, 14, 28]
    features = backbone(torch.randn(1, 3, 112, 112))
    five, four = (layer(features[name]) for layer, name in (
        (fpn.fpn_lateral5, "res5"), (fpn.fpn_lateral4, "res4")
    ))  # fmt: skip
    for i in range(7):
        for j in range(7):
            four[0, :, i, j] += five[0, :, i * 4 // 7, j * 4 // 7]
    torch.testing.assert_close(fpn(features)[1], fpn.fpn_output4(four))


@pytest.fixture(scope="module")
def trained() -> SoCo:
    """The quick config's method, every tensor of its encoder a draw of its own."""
    method = build_method(load_cfg(QUICK, ["MODEL.DEVICE", "cpu"]))
    norms = [w for name, w in method.encoder.backbone.named_parameters() if "conv3.norm.w" in name]
    assert len(norms) == 16
    assert all(weight.eq(0).all() for weight in norms)
    for value in method.encoder.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value))
    return method


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> tuple[str, dict[str, torch.Tensor]]:
    """The backbone file, and what it holds."""
    path = str(tmp_path_factory.mktemp("soco") / "backbone.pth")
    write_backbone(path, trained.export(), {})
    return path, {k: v for k, v in trained.export().items() if "num_batches_tracked" not in k}


def authors_names(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of an encoder under the names of the authors' checkpoints."""
    state = {
        f"encoder.{torchvision_from_detectron2(name) or name}": value
        for name, value in encoder.backbone.state_dict().items()
    }
    for name, value in encoder.neck.state_dict().items():
        kind, level, leaf = re.fullmatch(r"fpn_(\w+)(\d)\.(.+)", name).groups()
        theirs = {"lateral": "lateral_convs", "output": "fpn_convs"}[kind]
        part = "bn." if leaf.startswith("norm.") else "conv."
        state[f"neck.{theirs}.{int(level) - 2}.{part}{leaf.removeprefix('norm.')}"] = value
    for name, value in encoder.box_head.state_dict().items():
        state["head." + re.sub(r"conv(\d)\.norm", r"bn\1", name)] = value
    return state | {f"projector.{name}": v for name, v in encoder.projector.state_dict().items()}


def test_checkpoints_of_the_authors_and_of_a_run_give_the_same_file(trained, exported, tmp_path):
    theirs = authors_names(trained.encoder)
    theirs |= {
        f"{part}_k.{rest}": 0 * value
        for name, value in theirs.items()
        for part, rest in [name.split(".", 1)]
    }
    contents = {
        "soco": {"model": {f"module.{name}": value for name, value in theirs.items()}},
        "mls_d2": {"model": trained.state_dict()},
    }
    for source, content in contents.items():
        path = str(tmp_path / f"{source}.pth")
        torch.save(content, path)
        found = load_backbone(path, parts=("fpn", "box_head"), check=False)
        assert found.info["source"] == source
        tensors = found.state_dict | found.parts
        assert tensors.keys() == exported[1].keys()
        assert all(torch.equal(value, tensors[name]) for name, value in exported[1].items())
    # Without parts, the backbone alone is taken, also out of the file of a run.
    found = load_backbone(exported[0], check=False)
    assert not found.in_detectron2_format
    assert found.state_dict.keys() == trained.encoder.backbone.state_dict().keys() & exported[1]


def test_a_detector_gets_backbone_fpn_and_box_head(exported):
    path, tensors = exported
    cfg = load_cfg(f"{TRANSFER}_quick.yaml", ["MODEL.DEVICE", "cpu", *BATCH_NORM])
    model = build_model(cfg)
    report = load_initial_weights(model, path, cfg)
    assert report.ignored == ()
    # Eight convolutions of the FPN and one of the head, each with a norm; one linear layer.
    assert (report.num_backbone, report.num_parts) == (265, 9 * 5 + 2)
    assert report.num_backbone + report.num_parts == len(tensors)
    state = model.state_dict()
    places = {n: n if n in state else f"backbone.bottom_up.{n}" for n in tensors}
    assert all(torch.equal(state[places[name]], value) for name, value in tensors.items())
    missing = {n for n in state if n not in places.values() and "num_batches" not in n}
    assert len(missing) == report.num_random
    new = ("proposal_generator.", "roi_heads.box_predictor.", "roi_heads.mask_head.")
    assert all(name.startswith(new) for name in missing)


def test_the_paper_configs_agree_with_the_detector_of_the_transfer(exported):
    cfg = load_cfg("pretrain/configs/soco_coco_800ep.yaml", ["MODEL.DEVICE", "cpu"])
    transfer = load_cfg(f"{TRANSFER}_1x.yaml", ["MODEL.DEVICE", "meta", *BATCH_NORM])
    with torch.device("meta"):
        tensors = build_method(cfg).export()
        state = build_model(transfer).state_dict()
    for name, value in tensors.items():
        place = name if name in state else f"backbone.bottom_up.{name}"
        assert state[place].shape == value.shape, name


def test_another_detector_is_refused_with_the_keys_to_set(exported, refuses):
    cfg = load_cfg(
        f"{TRANSFER}_quick.yaml",
        ["MODEL.DEVICE", "cpu", *BATCH_NORM, "MODEL.ROI_BOX_HEAD.FC_DIM", "64"],
    )
    with refuses("wrong-weights", "roi_heads.box_head.fc1.weight"):
        load_initial_weights(build_model(cfg), exported[0], cfg)
