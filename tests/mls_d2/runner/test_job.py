"""The command lines of the cells."""

import dataclasses

import torch

from mls_d2.checkpoint.backbone_file import write_backbone
from mls_d2.config.loading import load_cfg
from mls_d2.runner.cells import plan_cells
from mls_d2.runner.job import command
from mls_d2.runner.store import Store

ARCHITECTURE = {
    "depth": 50,
    "stem_out_channels": 16,
    "res2_out_channels": 64,
    "num_groups": 1,
    "width_per_group": 16,
    "stride_in_1x1": True,
}


def test_a_tool_is_told_config_overrides_seed_weights_and_folder(bench):
    suite = bench.suite(
        methods=[{"name": "k7", "method": "mls", "opts": {"MLS.K": 7}}],
        tasks=[{"task": "coco", "opts": {"SOLVER.MAX_ITER": 3}}],
        seeds=[4],
        num_gpus=2,
    )
    pretrain, transfer = plan_cells(suite, gpus=True)
    place = Store(bench.out).place(pretrain)
    words = command(pretrain, place, bench.tools)
    config = str(bench.root / "pretrain/configs/mls_quick.yaml")
    expected = ["--config-file", config, "--resume", "--num-gpus", "2", "MLS.K", "7", "SEED", "0"]
    assert words == [*bench.tools.pretrain, *expected, "OUTPUT_DIR", str(place.folder)]
    weights = dataclasses.replace(place, weights=place.folder / "backbone.pth")
    assert command(transfer, weights, bench.tools)[-8:] == [
        *("SOLVER.MAX_ITER", "3", "SEED", "4", "MODEL.WEIGHTS", str(weights.weights)),
        *("OUTPUT_DIR", str(place.folder)),
    ]


def test_converted_weights_bring_the_config_that_they_need(bench, tmp_path):
    info = {
        "architecture": ARCHITECTURE,
        "pixel_mean": [103.5, 116.3, 123.7],
        "pixel_std": [1.0, 1.0, 1.0],
        "input_format": "BGR",
    }
    given = tmp_path / "given.pth"
    write_backbone(str(given), {"stem.conv1.weight": torch.zeros(16, 3, 7, 7)}, info)
    outcomes = bench.run(methods=["random"], checkpoints={"supervised": given})
    assert {item.status for item in outcomes.values()} == {"finished"}
    (convert,) = [call.words for call in bench.calls() if call.words[0] == "convert"]
    (transfer,) = [call.words for call in bench.calls() if "MODEL.PIXEL_STD" in call.words]
    folder = outcomes["convert/supervised"].folder
    weights = str(folder / "backbone.pth")
    assert convert == ["convert", str(given), weights, "--force", "--method", "supervised"]
    opts = transfer[transfer.index("SEED") :]
    cfg = load_cfg(str(bench.root / "transfer_configs/coco/mask_rcnn_R_50_FPN_quick.yaml"), opts)
    assert weights == cfg.MODEL.WEIGHTS
    assert cfg.INPUT.FORMAT == "BGR"
    assert cfg.MODEL.PIXEL_MEAN == [103.5, 116.3, 123.7]
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is True
    assert cfg.MODEL.RESNETS.WIDTH_PER_GROUP == 16


def test_a_conversion_is_told_what_the_row_says_of_its_file(bench, tmp_path):
    given = tmp_path / "given.pth"
    given.touch()
    row = {"name": "soco", "needs": "SoCo", "dataset": ["coco_2017_train", "extra"], "epochs": 400}
    suite = bench.suite(methods=[row], checkpoints={"soco": given})
    convert, _ = plan_cells(suite, gpus=False)
    words = command(convert, Store(bench.out).place(convert), bench.tools)
    said = ["--method", "soco", "--dataset", "coco_2017_train", "extra", "--epochs", "400"]
    assert words[-8:] == ["--force", *said]
