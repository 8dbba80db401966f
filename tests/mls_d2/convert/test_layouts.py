"""Renaming is one to one, whatever the depth, and the same from every layout."""

import re

import pytest
import torch

from mls_d2.convert.encoders import find_encoders
from mls_d2.convert.layouts import (
    LAYOUTS,
    TORCHVISION,
    detectron2_name,
    torchvision_from_detectron2,
)
from tests.mls_d2.convert.sources import (
    caffe2,
    caffe2_folded,
    classy_vision,
    detectron2,
    encoder,
    haiku,
    hugging_face,
    numbered,
    simclr_v2,
    under,
)

LEAVES = ("weight", "bias", "running_mean", "running_var")


def all_names() -> list[str]:
    """Every name of a deep ResNet: blocks of two and three digits, too."""
    names = ["conv1.weight", *(f"bn1.{leaf}" for leaf in LEAVES)]
    for stage in range(1, 5):
        for block in (0, 1, 9, 10, 35, 100):
            at = f"layer{stage}.{block}."
            names += [f"{at}conv{k}.weight" for k in (1, 2, 3)]
            names += [f"{at}bn{k}.{leaf}" for k in (1, 2, 3) for leaf in LEAVES]
            names += [f"{at}downsample.0.weight", *(f"{at}downsample.1.{leaf}" for leaf in LEAVES)]
    return names


def test_there_and_back_is_the_same_name_and_no_two_meet():
    names = all_names()
    ours = [detectron2_name(name) for name in names]
    assert len(set(ours)) == len(names)
    assert [torchvision_from_detectron2(name) for name in ours] == names
    # All parts of them are Detectron2's.
    pattern = r"(stem\.conv1|res[2-5]\.\d+\.(conv[123]|shortcut))(\.norm)?\.\w+"
    assert all(re.fullmatch(pattern, name) for name in ours)


def test_renaming_twice_is_refused():
    for name in all_names():
        with pytest.raises(ValueError, match="is not a name of torchvision"):
            detectron2_name(detectron2_name(name))
    assert [TORCHVISION.torchvision_name(name) for name in all_names()] == all_names()


def _haiku(state):
    params, statistics = haiku(state)
    return {"params": params, "state": statistics}


NAMED = {
    "torchvision": dict,
    "numbered Sequential": numbered,
    "VISSL": lambda state: under("_feature_blocks.", state),
    "Hugging Face": hugging_face,
    "ClassyVision": classy_vision,
    "Detectron2": detectron2,
    "Caffe2": caffe2,
    "Caffe2 with folded norms": caffe2_folded,
    "Haiku": _haiku,
    "SimCLR v2": simclr_v2,
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_each_layout_gives_the_same_network(layout):
    state = encoder(0)
    found = [item for item in find_encoders(NAMED[layout.name](state)) if item.layout is layout]
    assert len(found) == 1
    named, _ = found[0].tensors()
    expected = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    assert named.keys() == expected.keys()
    for name, value in expected.items():
        if not (layout.folded_norm and "running" in name):
            assert torch.equal(named[name], value), name


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_no_layout_takes_a_name_with_something_before_or_behind(layout):
    named = NAMED[layout.name](encoder(0))
    names = [n for n in named if layout.torchvision_name(n)] or list(layout.keys)
    for name in names:
        # Caffe2's momentum, a head's copy, an optimizer's state.
        for other in (f"x{name}", f"{name}_momentum", f"{name}.x", f" {name}", f"{name}\n"):
            assert layout.torchvision_name(other) is None, other
