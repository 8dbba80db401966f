"""Real COCO pictures through a real ResNet-50, for two steps."""

import json
import os
import subprocess
import sys

import pytest
import torch

from mls_d2.checkpoint.backbone_file import read_backbone


@pytest.mark.slow
@pytest.mark.real_data
def test_two_steps_of_mls_on_a_real_resnet_50(real_coco_root, tmp_path, request):
    changes = {
        "OUTPUT_DIR": str(tmp_path),
        "MODEL.DEVICE": "cpu",
        "DATALOADER.NUM_WORKERS": "0",
        "SOLVER.REFERENCE_WORLD_SIZE": "0",
        "SOLVER.IMS_PER_BATCH": "8",
        "MOCO.DICTIONARY_SIZE": "32",
        "PRETRAIN.AUGMENT.CROP_SIZE": "64",
        "PRETRAIN.EPOCHS": "0.25",
        "PRETRAIN.LOG_PERIOD": "1",
    }
    command = [sys.executable, "tools/pretrain.py"]
    command += ["--config-file", "pretrain/configs/mls_coco_400ep.yaml"]
    # A process of its own: Detectron2 reads the datasets' root once, when it is imported.
    subprocess.run(
        [*command, *(word for pair in changes.items() for word in pair)],
        check=True,
        cwd=request.config.rootpath,
        env=os.environ | {"DETECTRON2_DATASETS": str(real_coco_root)},
    )

    state = read_backbone(str(tmp_path / "backbone.pth")).state_dict
    assert len(state) == 265
    assert state["res5.2.conv3.weight"].shape == (2048, 512, 1, 1)
    with open(tmp_path / "metrics.json") as file:
        rows = [json.loads(line) for line in file]
    # 64 pictures in batches of 8, a quarter of an epoch.
    assert len(rows) == 2
    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in rows)
    assert rows[0]["feature_std"] > 0.1
