"""Real COCO pictures through a real ResNet-50, for two steps."""

import json
import os

import pytest
import torch

from mls_d2.checkpoint.backbone_file import read_backbone
from mls_d2.config import load_cfg
from pretrain.run import pretrain


@pytest.mark.slow
@pytest.mark.real_data
def test_two_steps_of_mls_on_a_real_resnet_50(real_coco_root, tmp_path, monkeypatch, request):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_coco_root))
    config = request.config.rootpath / "pretrain/configs/mls_coco_400ep.yaml"
    changes = {
        "OUTPUT_DIR": str(tmp_path),
        "MODEL.DEVICE": "cpu",
        "DATALOADER.NUM_WORKERS": "0",
        "SOLVER.IMS_PER_BATCH": "8",
        "MOCO.DICTIONARY_SIZE": "32",
        "PRETRAIN.AUGMENT.CROP_SIZE": "64",
        "PRETRAIN.EPOCHS": "0.25",
        "PRETRAIN.LOG_PERIOD": "1",
    }
    cfg = load_cfg(str(config), [word for pair in changes.items() for word in pair])
    path = pretrain(cfg)

    state = read_backbone(path).state_dict
    assert len(state) == 265
    assert state["res5.2.conv3.weight"].shape == (2048, 512, 1, 1)
    with open(os.path.join(cfg.OUTPUT_DIR, "metrics.json")) as file:
        rows = [json.loads(line) for line in file]
    # 64 pictures in batches of 8, a quarter of an epoch.
    assert len(rows) == 2
    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in rows)
    assert rows[0]["feature_std"] > 0.1
