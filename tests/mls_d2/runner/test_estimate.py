"""The table of costs, from costs that are given."""

from collections import Counter

import torch

from mls_d2.core.errors import UserError
from mls_d2.run.cost import GB, GPUS, UTILISATION, RunCost, StepCost
from mls_d2.runner.estimate import costs_text, fits


def cost(seconds=1.0, memory=4 * GB, num_gpus=8, steps=7200):
    """Return the cost of steps that take this time on a V100 with its memory as the limit."""
    traffic = seconds * UTILISATION * GPUS[0].bandwidth
    operators = Counter({("add", torch.float32, 32e9, traffic): 1})
    step = StepCost(32, operators, int(memory), 0, 0, 0)
    return RunCost(step, steps, num_gpus, int(2 * GB), "SOLVER.IMS_PER_BATCH (16)")


def rows(text):
    return [line.split() for line in text.splitlines() if line.startswith("  ")]


def test_cells_of_one_recipe_share_a_row_and_the_last_row_sums_up(bench):
    cells = bench.cells(methods=["random", "mls"], tasks=["coco"])
    text = costs_text(cells, lambda cell: cost(num_gpus=8 if cell.stage == "pretrain" else 2))
    head, coco, pretrained, total = rows(text)
    assert coco[:5] == ["coco/random-seed0", "2", "2", "1.0", "4.0"]
    assert coco[5:7] == ["64", "2.0"]  # 2 · 32 images/s; 7200 steps of a second
    assert pretrained[:3] == ["pretrain/mls-seed0", "1", "8"]
    assert pretrained[5:7] == ["256", "2.0"]
    # 2 cells of 2 GPUs and one of 8, two hours each; 2 GB each.
    assert total[:6] == ["GPU-hours", "and", "disk,", "all", "3", "24"]
    assert total[-1] == "6.0"
    assert head[:2] == ["cell", "cells"]


def test_what_does_not_fit_names_the_gpus_and_the_keys(bench):
    cells = bench.cells(methods=["random"], tasks=["coco"])
    assert "does not fit" not in costs_text(cells, lambda _: cost(memory=20 * GB))
    text = costs_text(cells, lambda _: cost(memory=30 * GB))
    assert text.splitlines()[-1] == (
        "coco/random-seed0 needs about 30.0 GB per GPU and does not fit on V100 (32 GB), "
        "4090 (24 GB); lower SOLVER.IMS_PER_BATCH (16)"
    )
    # A tenth and one GB beside the tensors.
    assert fits(cost(memory=28 * GB), GPUS[0])
    assert not fits(cost(memory=28.3 * GB), GPUS[0])


def test_what_cannot_be_counted_and_what_is_not_trained(bench):
    cells = bench.cells(methods=["random", "mls"], tasks=["coco"])

    def cost_of(cell):
        if cell.stage == "pretrain":
            raise RuntimeError("not on fake tensors")
        return RunCost(None, 0, 1, 0)

    _, coco, pretrained, total = rows(costs_text(cells, cost_of))
    assert coco == ["coco/random-seed0", "2", "1", "no", "training"]
    assert pretrained[2:] == ["not", "estimated:", "RuntimeError"]
    assert total[5:] == ["0", "0", "0", "0", "0.0"]


def test_a_mistake_in_a_config_is_an_error(bench, refuses):
    def cost_of(cell):
        raise UserError("no", code="bad-value")

    with refuses("bad-value"):
        costs_text(bench.cells(), cost_of)


def test_conversions_cost_nothing(bench, tmp_path):
    file = tmp_path / "a.pth"
    file.write_bytes(b"1")
    cells = bench.cells(methods=["random"], tasks=["coco"], checkpoints={"a": file})
    assert [cell.stage for cell in cells] == ["transfer", "convert", "transfer"]
    _, coco, total = rows(costs_text(cells, lambda _: cost()))
    assert coco[:2] == ["coco/random-seed0", "2"]
    assert total[4] == "2"


def test_hours_of_a_row_are_those_of_its_gpu(bench):
    cells = bench.cells(methods=["random"], tasks=["coco"])
    row = rows(costs_text(cells, lambda _: cost(seconds=10.0)))[1]
    hours = [f"{20 * 900e9 / gpu.bandwidth:.1f}" for gpu in GPUS]
    assert row[6 : 6 + 2 * len(GPUS) : 2] == hours
