"""A transfer run repeats, resumes, stops in good order and refuses what does not belong to it."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from mls_d2.checkpoint.backbone_file import read_backbone, sha256, write_backbone
from mls_d2.core.errors import UserError
from mls_d2.results.schema import read_result
from mls_d2.run.hooks import PeriodicCheckpointer
from mls_d2.run.loop import NonFiniteLossError
from mls_d2.transfer import detection
from mls_d2.transfer import trainer as transfer_trainer
from mls_d2.transfer.run import run_evaluation, run_transfer
from mls_d2.transfer.tasks import task_of


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Names of the pictures asked for: drawing takes as long as all the rest of such a run."""
    names = []
    monkeypatch.setattr(detection, "write_detections", lambda path, *_: names.append(path))
    return names


@pytest.fixture
def write_every_step(monkeypatch):
    monkeypatch.setattr(transfer_trainer, "_LOG_PERIOD", 1)


@pytest.fixture
def interrupt_at(monkeypatch):
    """Send a signal to this process at the start of a given iteration; None sends no more."""
    before_step = PeriodicCheckpointer.before_step

    def arm(iteration):
        def send(hook):
            before_step(hook)
            if hook.trainer.iter == iteration:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(PeriodicCheckpointer, "before_step", send)

    return arm


def read_metrics(cfg):
    lines = Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(cfg):
    return [
        {name: value for name, value in line.items() if "loss" in name}
        for line in read_metrics(cfg)
    ]


def weights(cfg, name="model_final.pth"):
    return read_backbone(os.path.join(cfg.OUTPUT_DIR, name)).state_dict


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    make_cfg, tmp_path, write_every_step
):
    cfgs = [
        make_cfg("OUTPUT_DIR", tmp_path / name, "SEED", seed)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    for cfg in cfgs:
        run_transfer(cfg)
    first, again, other = cfgs
    assert len(losses(first)) == 2
    assert losses(first) == losses(again)
    assert losses(first) != losses(other)
    for name, value in weights(first).items():
        assert torch.equal(value, weights(again)[name])
    assert not torch.equal(
        weights(first)["backbone.bottom_up.stem.conv1.weight"],
        weights(other)["backbone.bottom_up.stem.conv1.weight"],
    )


def test_a_run_writes_what_belongs_to_it(make_cfg, drawn):
    cfg = make_cfg("SEED", 7)
    run_transfer(cfg)
    result = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    assert (result.method, result.task, result.seed) == ("random", "drawn_mask_rcnn_fpn", 7)
    assert result.backbone == {"file": "random", "sha256": "", "info": {}}
    assert set(result.metrics) == {"bbox", "segm"}
    assert {"AP", "AP50", "AP-blue", "AP-green"} <= set(result.metrics["bbox"])
    assert result.dataset["num_images"] == 8
    assert result.wall_time_s > 0
    assert (result.device["kind"], result.device["count"]) == ("cpu", torch.get_num_threads())
    assert result.images_per_s > 0
    assert 100 < result.peak_memory_mb < 100_000
    there = set(os.listdir(cfg.OUTPUT_DIR))
    assert {"config.yaml", "environment.json", "metrics.json", "model_final.pth"} <= there
    assert not [name for name in there if name.startswith(".tmp")]
    assert drawn == [os.path.join(cfg.OUTPUT_DIR, "predictions.png")]


def test_a_finished_run_is_left_alone(make_cfg, capfd):
    cfg = make_cfg()
    run_transfer(cfg)
    before = {path: path.stat().st_mtime_ns for path in Path(cfg.OUTPUT_DIR).iterdir()}
    for resume in (False, True):
        run_transfer(make_cfg(), resume=resume)
        assert "already finished" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path(cfg.OUTPUT_DIR).iterdir()} == before
    # Where it is computed and how often it is saved does not make it another run.
    run_transfer(make_cfg("DATALOADER.NUM_WORKERS", 1, "SOLVER.CHECKPOINT_PERIOD", 5))
    with pytest.raises(UserError, match="SOLVER.BASE_LR: was 0.03, is 0.01"):
        run_transfer(make_cfg("SOLVER.BASE_LR", 0.01), resume=True)


def test_an_interrupted_run_goes_on_where_it_was(make_cfg, interrupt_at, write_every_step):
    cfg = make_cfg("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 100)
    interrupt_at(1)
    with pytest.raises(KeyboardInterrupt):
        run_transfer(cfg)
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_0000001.pth"
    assert not Path(cfg.OUTPUT_DIR, "results.json").exists()
    before = losses(cfg)
    with pytest.raises(UserError, match="unfinished run.*--resume"):
        run_transfer(cfg)
    with pytest.raises(UserError, match="SEED: was 0, is 5"):
        run_transfer(make_cfg("SOLVER.MAX_ITER", 4, "SEED", 5), resume=True)
    interrupt_at(None)
    run_transfer(cfg, resume=True)
    lines = read_metrics(cfg)
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3]
    assert losses(cfg)[:2] == before[:2]
    # Warm-up ends after two iterations: the schedule went on, too.
    assert [line["lr"] for line in lines[2:]] == [0.03, 0.03]
    assert Path(cfg.OUTPUT_DIR, "results.json").exists()


def test_resuming_restores_weights_momentum_and_schedule(make_cfg, tmp_path, interrupt_at):
    whole = make_cfg("SOLVER.MAX_ITER", 3, "OUTPUT_DIR", tmp_path / "whole")
    run_transfer(whole)
    parts = make_cfg("SOLVER.MAX_ITER", 3)
    interrupt_at(1)
    with pytest.raises(KeyboardInterrupt):
        run_transfer(parts)
    path = "model_0000001.pth"
    uninterrupted = torch.load(os.path.join(whole.OUTPUT_DIR, path), weights_only=True)
    interrupted = torch.load(os.path.join(parts.OUTPUT_DIR, path), weights_only=True)
    for key in ("model", "optimizer", "scheduler"):
        torch.testing.assert_close(interrupted[key], uninterrupted[key], rtol=0, atol=0)


def test_a_signal_in_the_last_step_leaves_the_evaluation_to_a_resumed_run(make_cfg, interrupt_at):
    cfg = make_cfg()
    interrupt_at(1)
    with pytest.raises(KeyboardInterrupt):
        run_transfer(cfg)
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_final.pth"
    trained = weights(cfg)
    interrupt_at(None)
    run_transfer(cfg, resume=True)
    assert Path(cfg.OUTPUT_DIR, "results.json").exists()
    assert all(torch.equal(value, trained[name]) for name, value in weights(cfg).items())
    result = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    assert result.images_per_s > 0


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    make_cfg, interrupt_at, capfd
):
    cfg = make_cfg("SOLVER.MAX_ITER", 4)
    interrupt_at(2)
    with pytest.raises(KeyboardInterrupt):
        run_transfer(cfg)
    newest = Path(cfg.OUTPUT_DIR, "model_0000002.pth")
    newest.write_bytes(newest.read_bytes()[:1000])
    interrupt_at(None)
    capfd.readouterr()
    run_transfer(cfg, resume=True)
    log = capfd.readouterr().out
    assert "model_0000002.pth' is damaged or truncated" in log
    assert "resumed from" in log
    assert "model_0000001.pth" in log


def test_nothing_but_damaged_checkpoints_is_a_user_error(make_cfg, interrupt_at):
    cfg = make_cfg("SOLVER.MAX_ITER", 3)
    interrupt_at(0)
    with pytest.raises(KeyboardInterrupt):
        run_transfer(cfg)
    Path(cfg.OUTPUT_DIR, "model_0000000.pth").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        run_transfer(cfg, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    make_cfg, monkeypatch, capfd
):
    step = transfer_trainer.TrainingLoop.run_step

    def poison(trainer):
        if trainer.iter == 2:
            trainer.model.roi_heads.mask_head.predictor.bias.data.fill_(math.nan)
        step(trainer)

    monkeypatch.setattr(transfer_trainer.TrainingLoop, "run_step", poison)
    cfg = make_cfg("SOLVER.MAX_ITER", 4)
    with pytest.raises(NonFiniteLossError, match="iteration 2: loss_mask = nan"):
        run_transfer(cfg)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_0000001.pth"
    assert all(torch.isfinite(value).all() for value in weights(cfg, "model_0000001.pth").values())
    assert not Path(cfg.OUTPUT_DIR, "results.json").exists()


def test_a_model_that_is_not_finite_is_not_saved(make_cfg, monkeypatch):
    step = transfer_trainer.TrainingLoop.run_step

    def poison(trainer):
        step(trainer)
        if trainer.iter == 1:
            trainer.model.backbone.bottom_up.stem.conv1.weight.data[0] = math.inf

    monkeypatch.setattr(transfer_trainer.TrainingLoop, "run_step", poison)
    cfg = make_cfg("SOLVER.MAX_ITER", 3)
    with pytest.raises(NonFiniteLossError, match="backbone.bottom_up.stem.conv1.weight"):
        run_transfer(cfg)
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_0000000.pth"


@pytest.fixture
def backbone(make_cfg, tmp_path):
    """A backbone file for the tiny model."""
    torch.manual_seed(11)
    network = build_model(make_cfg("MODEL.DEVICE", "cpu")).backbone.bottom_up
    path = str(tmp_path / "backbone.pth")
    write_backbone(path, network.state_dict(), {"method": "mls", "synthetic": True})
    return path


def test_the_backbone_is_on_record_and_its_change_is_refused(make_cfg, backbone):
    cfg = make_cfg("MODEL.WEIGHTS", backbone)
    run_transfer(cfg)
    result = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    assert result.method == "mls"
    assert result.backbone["sha256"] == sha256(backbone)
    assert result.backbone["info"] == {"method": "mls", "synthetic": True}
    state = read_backbone(backbone).state_dict
    write_backbone(backbone, {name: value + 1 for name, value in state.items()}, {})
    with pytest.raises(UserError, match="MODEL.WEIGHTS: the content has changed"):
        run_transfer(cfg)


def test_heads_and_data_are_the_same_from_any_backbone(make_cfg, backbone, tmp_path):
    random = make_cfg("OUTPUT_DIR", tmp_path / "random", "SOLVER.BASE_LR", 0.0)
    pretrained = make_cfg("MODEL.WEIGHTS", backbone, "SOLVER.BASE_LR", 0.0)
    run_transfer(random)
    run_transfer(pretrained)
    ours, theirs = weights(pretrained), weights(random)
    heads = [n for n in ours if n.startswith(("roi_heads", "proposal")) and n.endswith("weight")]
    assert heads
    assert all(torch.equal(ours[name], theirs[name]) for name in heads)
    stem = "backbone.bottom_up.stem.conv1.weight"
    assert torch.equal(ours[stem], read_backbone(backbone).state_dict["stem.conv1.weight"])
    assert not torch.equal(ours[stem], theirs[stem])


def test_evaluation_alone_gives_the_metrics_of_the_run(make_cfg, backbone, tmp_path):
    cfg = make_cfg("MODEL.WEIGHTS", backbone, "SOLVER.MAX_ITER", 3)
    run_transfer(cfg)
    final = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    run_evaluation(make_cfg("MODEL.WEIGHTS", final, "OUTPUT_DIR", tmp_path / "evaluated"))
    before = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    after = read_result(tmp_path / "evaluated" / "results.json")
    assert after.method == "mls"
    assert after.metrics["bbox"] == pytest.approx(before.metrics["bbox"], nan_ok=True)
    with pytest.raises(UserError, match="does not hold the model of this config"):
        run_evaluation(make_cfg("MODEL.WEIGHTS", backbone, "OUTPUT_DIR", tmp_path / "x"))


def test_evaluation_alone_is_no_published_recipe(make_cfg, tmp_path):
    cfg = make_cfg()
    run_transfer(cfg)
    half = os.path.join(cfg.OUTPUT_DIR, "model_0000000.pth")
    for preset, expected in (("paper", "custom"), ("quick", "quick")):
        folder = tmp_path / preset
        run_evaluation(make_cfg("MODEL.WEIGHTS", half, "OUTPUT_DIR", folder, "PRESET", preset))
        assert read_result(folder / "results.json").preset == expected


def test_evaluation_alone_does_not_write_into_a_run(make_cfg, interrupt_at, drawn):
    cfg = make_cfg("SOLVER.MAX_ITER", 3)
    interrupt_at(0)
    with pytest.raises(KeyboardInterrupt):
        run_transfer(cfg)
    half = ("MODEL.WEIGHTS", os.path.join(cfg.OUTPUT_DIR, "model_0000000.pth"))
    with pytest.raises(UserError, match="holds a run .*--eval-only an OUTPUT_DIR of its own"):
        run_evaluation(make_cfg(*half))
    assert not Path(cfg.OUTPUT_DIR, "results.json").exists()
    interrupt_at(None)
    run_transfer(cfg, resume=True)
    result = Path(cfg.OUTPUT_DIR, "results.json").read_bytes()
    with pytest.raises(UserError, match="holds a run or its results"):
        run_evaluation(make_cfg(*half))
    assert Path(cfg.OUTPUT_DIR, "results.json").read_bytes() == result
    assert len(drawn) == 1


def test_a_picture_that_fails_costs_no_result(make_cfg, monkeypatch, capfd):
    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(detection, "write_detections", fail)
    cfg = make_cfg("SOLVER.MAX_ITER", 1)
    run_transfer(cfg)
    assert Path(cfg.OUTPUT_DIR, "results.json").exists()
    assert "predictions.png was not drawn: RuntimeError: no ink" in capfd.readouterr().out


def test_periodic_evaluation_is_logged_but_not_twice_at_the_end(make_cfg, write_every_step):
    cfg = make_cfg("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 1)
    run_transfer(cfg)
    lines = read_metrics(cfg)
    assert ["bbox/AP" in line for line in lines] == [True, True, False]
    assert [line["iteration"] for line in lines] == [0, 1, 2]


def test_every_evaluation_is_of_the_model_that_the_main_process_saves(make_cfg, monkeypatch):
    order = []
    cfg = make_cfg("TEST.EVAL_PERIOD", 1)
    task = type(task_of(cfg))
    evaluate = task.evaluate
    monkeypatch.setattr(transfer_trainer, "share_statistics", lambda _: order.append("share"))
    monkeypatch.setattr(task, "evaluate", lambda *args: order.append("evaluate") or evaluate(*args))
    run_transfer(cfg)
    assert order == ["share", "evaluate", "share", "evaluate"]


@pytest.mark.parametrize(
    ("opts", "problem"),
    [
        (("MODEL.WEIGHTS", "none.pth"), "no weights file 'none.pth'"),
        (("MODEL.WEIGHTS", ""), "MODEL.WEIGHTS is empty"),
        (("DATASETS.TRAIN", "('drawn_trian',)"), "did you mean 'drawn_train'"),
        (("DATASETS.TEST", "()"), "DATASETS.TEST is empty"),
        (("SOLVER.REFERENCE_WORLD_SIZE", 8), "SOLVER.IMS_PER_BATCH 2 is not divisible by 8"),
        (("OUTPUT_DIR", "/proc/run"), "cannot write to '/proc/run'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(make_cfg, opts, problem):
    cfg = make_cfg(*opts)
    with pytest.raises(UserError, match=problem):
        run_transfer(cfg)
    assert not os.path.exists(cfg.OUTPUT_DIR)


def test_a_backbone_of_another_width_leaves_no_half_started_run(make_cfg, backbone):
    cfg = make_cfg("MODEL.WEIGHTS", backbone, "MODEL.RESNETS.WIDTH_PER_GROUP", 4)
    with pytest.raises(UserError, match="width differ"):
        run_transfer(cfg)
    assert not Path(cfg.OUTPUT_DIR, "config.yaml").exists()


def test_detectron2s_scaling_rule_holds_on_fewer_processes(make_cfg):
    cfg = make_cfg("SOLVER.REFERENCE_WORLD_SIZE", 2, "SOLVER.MAX_ITER", 1)
    run_transfer(cfg)
    text = read_result(os.path.join(cfg.OUTPUT_DIR, "results.json")).config
    assert "IMS_PER_BATCH: 1\n" in text
    assert "MAX_ITER: 2\n" in text
    assert "BASE_LR: 0.015\n" in text


def test_the_task_is_named_after_data_and_network(make_cfg):
    fpn = make_cfg("DATASETS.TEST", "('coco_2017_val',)")
    assert task_of(fpn).name(fpn) == "coco_mask_rcnn_fpn"
    opts = ("DATASETS.TEST", "('voc_2007_test',)", "MODEL.MASK_ON", False)
    c4 = make_cfg(*opts, "MODEL.BACKBONE.NAME", "build_resnet_backbone")
    assert task_of(c4).name(c4) == "voc_faster_rcnn_c4"


def test_another_number_of_categories_than_the_dataset_has_is_refused(make_cfg):
    with pytest.raises(UserError, match=r"categories, the model 7; set MODEL.ROI_HEADS.NUM_CL"):
        run_transfer(make_cfg("MODEL.ROI_HEADS.NUM_CLASSES", 7))
