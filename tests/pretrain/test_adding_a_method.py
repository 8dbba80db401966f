"""The method that docs/adding-a-method.md makes is made, trained and exported."""

import re
import sys
import textwrap
import types

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from PIL import Image

import mls_d2.config
from mls_d2.checkpoint.backbone_file import read_backbone
from mls_d2.core.errors import UserError
from pretrain.methods import METHODS
from pretrain.run import pretrain


@pytest.fixture
def blocks(request) -> list[str]:
    """The page's blocks of Python: the file, the keys, the name; and of YAML."""
    text = (request.config.rootpath / "docs/adding-a-method.md").read_text(encoding="utf-8")
    return re.findall(r"```(?:python|yaml)\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def vicreg(blocks, monkeypatch):
    """The module of the page, its keys and its name in their places."""
    module = types.ModuleType("pretrain.methods.vicreg")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(blocks[0], "docs/adding-a-method.md", "exec"), module.__dict__)
    add_others = mls_d2.config._add_other_method_keys

    def add_keys(cfg: CfgNode) -> None:
        add_others(cfg)
        exec(textwrap.dedent(blocks[1]), {"cfg": cfg, "CfgNode": CfgNode})

    monkeypatch.setattr(mls_d2.config, "_add_other_method_keys", add_keys)
    for name in METHODS:
        monkeypatch.setitem(METHODS, name, METHODS[name])  # Restores what is there.
    monkeypatch.delitem(METHODS, "vicreg", raising=False)
    exec(blocks[2], {"METHODS": METHODS, "VICReg": module.VICReg})
    yield module
    METHODS.pop("vicreg", None)


def test_it_is_short(blocks):
    assert len(blocks) == 4
    assert sum(len(block.splitlines()) for block in blocks[:3]) <= 65
    code = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(code) < 60


def test_its_loss_is_0_for_what_vicreg_wants(vicreg):
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])  # Uncorrelated, spread 2/√3.
    v, c = vicreg.variance_and_covariance(corners)
    assert (v.item(), c.item()) == (0, 0)
    v, c = vicreg.variance_and_covariance(0.5 * corners[:, :1].expand(-1, 2))
    assert v.item() == pytest.approx(1 - (1 / 3 + 1e-4) ** 0.5)
    assert c.item() == pytest.approx(2 * (1 / 3) ** 2 / 2)


def test_it_trains_and_exports(vicreg, blocks, tiny, tmp_path, request):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    base = request.config.rootpath / "pretrain/configs/mocov2_quick.yaml"
    config = tmp_path / "vicreg_quick.yaml"
    config.write_text(blocks[3].replace("mocov2_quick.yaml", str(base)))
    changes = tiny | {"DATASETS.TRAIN": f"('{folder}',)", "OUTPUT_DIR": str(tmp_path / "run")}
    del changes["PRETRAIN.METHOD"]
    words = [word for pair in changes.items() for word in pair]
    words += ["PRETRAIN.WARMUP_EPOCHS", "0", "PRETRAIN.EPOCHS", "0.5"]
    cfg = mls_d2.config.load_cfg(str(config), words)
    assert read_backbone(pretrain(cfg)).info["method"] == "vicreg"
    cfg.VICREG.WEIGHT = 0.0
    with pytest.raises(UserError, match="VICREG.WEIGHT must be > 0, got 0.0"):
        pretrain(cfg)
