"""Transfer runs are reproducible, resume, stop cleanly, and refuse folders of other runs."""

import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model

from mls_d2.checkpoint.backbone_file import read_backbone, sha256, write_backbone
from mls_d2.results.schema import InitialWeights, read_result
from mls_d2.run.hooks import PeriodicCheckpointer
from mls_d2.transfer import detection
from mls_d2.transfer import trainer as transfer_trainer
from mls_d2.transfer.run import check_transfer, run_evaluation, run_transfer
from mls_d2.transfer.tasks import task_of

STEM = "backbone.bottom_up.stem.conv1.weight"


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Names of the requested pictures: drawing takes as long as all the rest of such a run."""
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
    return [{k: v for k, v in line.items() if "loss" in k} for line in read_metrics(cfg)]


def weights(cfg, name="model_final.pth"):
    return read_backbone(os.path.join(cfg.OUTPUT_DIR, name)).state_dict


def result_of(cfg):
    return read_result(os.path.join(cfg.OUTPUT_DIR, "results.json"))


def test_a_run_is_recorded_repeats_with_its_seed_and_differs_with_another(
    make_cfg, tmp_path, write_every_step, drawn, monkeypatch
):
    told = tmp_path / "told"
    monkeypatch.setenv("MLS_D2_NOTIFY", f'echo "$RUN_TASK $RUN_METHOD $RUN_RESULT" >> {told}')
    cfgs = [
        make_cfg("OUTPUT_DIR", tmp_path / name, "SEED", seed)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    for cfg in cfgs:
        run_transfer(cfg)
    first, again, other = cfgs
    assert len(losses(first)) == 2
    assert losses(first) == losses(again) != losses(other)
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())
    assert not torch.equal(weights(first)[STEM], weights(other)[STEM])
    result = result_of(first)
    assert (result.method, result.task, result.seed) == ("random", "drawn_mask_rcnn_fpn", 3)
    assert result.backbone == InitialWeights(file="random", sha256="", info={})
    assert set(result.metrics) == {"bbox", "segm"}
    assert {"AP", "AP50", "AP-blue", "AP-green"} <= set(result.metrics["bbox"])
    assert result.dataset.num_images == 8
    assert result.wall_time_s > 0
    assert (result.device.kind, result.device.count) == ("cpu", torch.get_num_threads())
    assert result.images_per_s > 0
    assert 100 < result.peak_memory_mb < 100_000
    there = set(os.listdir(first.OUTPUT_DIR))
    assert {"config.yaml", "environment.json", "metrics.json", "model_final.pth"} <= there
    assert not [name for name in there if name.startswith(".tmp")]
    facts = json.loads(Path(first.OUTPUT_DIR, "environment.json").read_text())
    lines = told.read_text().splitlines()
    ap = result.metrics["bbox"]["AP"]
    assert lines[0].startswith(f"drawn_mask_rcnn_fpn random bbox AP {ap:.2f}, bbox AP50 ")
    assert len(lines) == 3
    known = {"task": "drawn_mask_rcnn_fpn", "method": "random", "max_iter": 2, "synthetic": False}
    assert known.items() <= facts.items()
    assert drawn[0] == os.path.join(first.OUTPUT_DIR, "predictions.png")


def test_a_finished_run_is_not_repeated_and_not_overwritten(make_cfg, refuses):
    cfg = make_cfg("SOLVER.MAX_ITER", 1)
    run_transfer(cfg)
    before = {path: path.stat().st_mtime_ns for path in Path(cfg.OUTPUT_DIR).iterdir()}
    run_transfer(cfg, resume=True)
    # The device and the period of saving do not make it another run.
    more = ("SOLVER.MAX_ITER", 1, "DATALOADER.NUM_WORKERS", 1, "SOLVER.CHECKPOINT_PERIOD", 5)
    run_transfer(make_cfg(*more))
    with refuses("changed-run", "SOLVER.BASE_LR: was 0.03, is 0.01"):
        run_transfer(make_cfg(*more, "SOLVER.BASE_LR", 0.01), resume=True)
    assert {path: path.stat().st_mtime_ns for path in Path(cfg.OUTPUT_DIR).iterdir()} == before


def test_an_interrupted_run_resumes_with_weights_momentum_and_schedule(
    make_cfg, tmp_path, interrupt_at, write_every_step, refuses
):
    whole = make_cfg("SOLVER.MAX_ITER", 3, "OUTPUT_DIR", tmp_path / "whole")
    run_transfer(whole)
    cfg = make_cfg("SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 100)
    interrupt_at(1)
    with pytest.raises(KeyboardInterrupt):
        run_transfer(cfg)
    name = "model_0000001.pth"
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == name
    states = [torch.load(os.path.join(c.OUTPUT_DIR, name), weights_only=True) for c in (whole, cfg)]
    for key in ("model", "optimizer", "scheduler"):
        torch.testing.assert_close(states[1][key], states[0][key], rtol=0, atol=0)
    assert not Path(cfg.OUTPUT_DIR, "results.json").exists()
    before = losses(cfg)
    with refuses("unfinished-run"):
        run_transfer(cfg)
    with refuses("changed-run"):
        run_transfer(make_cfg("SOLVER.MAX_ITER", 3, "SEED", 5), resume=True)
    interrupt_at(None)
    run_transfer(cfg, resume=True)
    lines = read_metrics(cfg)
    assert [line["iteration"] for line in lines] == [0, 1, 2]
    assert losses(cfg)[:2] == before[:2] == losses(whole)[:2]
    # Warm-up ends after two iterations: the schedule was resumed, too.
    assert lines[2]["lr"] == 0.03
    assert Path(cfg.OUTPUT_DIR, "results.json").exists()


def test_a_signal_in_the_last_step_leaves_the_evaluation_to_a_resumed_run(make_cfg, interrupt_at):
    cfg = make_cfg()
    interrupt_at(1)
    with pytest.raises(KeyboardInterrupt):
        run_transfer(cfg)
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_final.pth"
    trained = weights(cfg)
    interrupt_at(None)
    run_transfer(cfg, resume=True)
    assert all(torch.equal(value, trained[name]) for name, value in weights(cfg).items())
    assert result_of(cfg).images_per_s > 0


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    make_cfg, monkeypatch, capfd, refuses
):
    step = transfer_trainer.TrainingLoop.run_step

    def poison(trainer):
        if trainer.iter == 1:
            trainer.model.roi_heads.mask_head.predictor.bias.data.fill_(math.nan)
        step(trainer)

    monkeypatch.setattr(transfer_trainer.TrainingLoop, "run_step", poison)
    cfg = make_cfg("SOLVER.MAX_ITER", 3)
    with refuses("not-finite", "iteration 1: loss_mask = nan"):
        run_transfer(cfg)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_0000000.pth"
    assert all(torch.isfinite(value).all() for value in weights(cfg, "model_0000000.pth").values())
    assert not Path(cfg.OUTPUT_DIR, "results.json").exists()


@pytest.fixture
def backbone(make_cfg, tmp_path):
    """A backbone file for the tiny model."""
    torch.manual_seed(11)
    network = build_model(make_cfg("MODEL.DEVICE", "cpu")).backbone.bottom_up
    path = str(tmp_path / "backbone.pth")
    write_backbone(path, network.state_dict(), {"method": "mls", "synthetic": True})
    return path


def test_the_backbone_is_recorded_and_all_else_is_the_same_from_any_backbone(
    make_cfg, backbone, tmp_path, refuses
):
    random = make_cfg("OUTPUT_DIR", tmp_path / "random", "SOLVER.BASE_LR", 0.0)
    pretrained = make_cfg("MODEL.WEIGHTS", backbone, "SOLVER.BASE_LR", 0.0)
    run_transfer(random)
    run_transfer(pretrained)
    result = result_of(pretrained)
    assert (result.method, result.backbone.sha256) == ("mls", sha256(backbone))
    assert result.backbone.info == {"method": "mls", "synthetic": True}
    ours, theirs = weights(pretrained), weights(random)
    heads = [n for n in ours if n.startswith(("roi_heads", "proposal")) and n.endswith("weight")]
    assert heads
    assert all(torch.equal(ours[name], theirs[name]) for name in heads)
    state = read_backbone(backbone).state_dict
    assert torch.equal(ours[STEM], state["stem.conv1.weight"])
    assert not torch.equal(ours[STEM], theirs[STEM])
    write_backbone(backbone, {name: value + 1 for name, value in state.items()}, {})
    with refuses("changed-run"):
        run_transfer(pretrained)
    wider = make_cfg("MODEL.WEIGHTS", backbone, "MODEL.RESNETS.WIDTH_PER_GROUP", 4)
    wider.OUTPUT_DIR = str(tmp_path / "wider")
    with refuses("wrong-weights", "width differ"):
        run_transfer(wider)
    assert not Path(wider.OUTPUT_DIR, "config.yaml").exists()


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_evaluation_alone_gives_the_metrics_of_the_run_into_another_folder(
    make_cfg, backbone, tmp_path, refuses, preset
):
    cfg = make_cfg("MODEL.WEIGHTS", backbone, "SOLVER.MAX_ITER", 1)
    run_transfer(cfg)
    final = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    folder, before = tmp_path / "evaluated", result_of(cfg)
    opts = ("OUTPUT_DIR", folder, "PRESET", preset, "TEST.SAVE_PREDICTIONS", preset == "quick")
    run_evaluation(make_cfg("MODEL.WEIGHTS", final, *opts))
    assert len(list(folder.glob("predictions-*.json"))) == (preset == "quick")
    after = read_result(folder / "results.json")
    # It need not be the model of the whole recipe.
    assert (after.method, after.preset) == ("mls", "custom")
    assert after.metrics["bbox"] == pytest.approx(before.metrics["bbox"], nan_ok=True)
    with refuses("unfinished-run"):
        run_evaluation(make_cfg("MODEL.WEIGHTS", final))
    assert result_of(cfg) == before
    with refuses("wrong-weights", "does not hold the model of this config"):
        run_evaluation(make_cfg("MODEL.WEIGHTS", backbone, "OUTPUT_DIR", tmp_path / "x"))


def test_without_a_picture_there_is_a_result_of_the_scaled_recipe(make_cfg, monkeypatch, capfd):
    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(detection, "write_detections", fail)
    cfg = make_cfg("SOLVER.MAX_ITER", 1, "SOLVER.REFERENCE_WORLD_SIZE", 2)
    run_transfer(cfg)
    text = result_of(cfg).config
    assert all(line in text for line in ("IMS_PER_BATCH: 1\n", "MAX_ITER: 2\n", "BASE_LR: 0.015\n"))
    assert "RuntimeError: no ink" in capfd.readouterr().out


def test_periodic_evaluation_is_of_the_saved_model_and_logged_but_not_twice_at_the_end(
    make_cfg, monkeypatch, write_every_step
):
    order = []
    cfg = make_cfg("TEST.EVAL_PERIOD", 1)
    task = type(task_of(cfg))
    evaluate = task.evaluate
    monkeypatch.setattr(transfer_trainer, "share_statistics", lambda _: order.append("share"))
    monkeypatch.setattr(task, "evaluate", lambda *args: order.append("evaluate") or evaluate(*args))
    run_transfer(cfg)
    assert order == ["share", "evaluate", "share", "evaluate"]
    lines = read_metrics(cfg)
    assert [(line["iteration"], "bbox/AP" in line) for line in lines] == [(0, True), (1, False)]


@pytest.mark.parametrize(
    ("opts", "code"),
    [
        (("MODEL.WEIGHTS", ""), "bad-value"),
        (("DATASETS.TEST", "()"), "bad-value"),
        (("SOLVER.REFERENCE_WORLD_SIZE", 8), "bad-value"),
        (("SOLVER.AMP.ENABLED", True), "bad-value"),
        (("MODEL.ROI_HEADS.NUM_CLASSES", 7), "bad-value"),
        (("MODEL.META_ARCHITECTURE", "RCNN"), "unknown-name"),
        (("OUTPUT_DIR", "/proc/run"), "unwritable"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    make_cfg, opts, code, refuses, monkeypatch
):
    # What the CPU computes with must not matter.
    monkeypatch.setattr("torch.cpu.get_capabilities", dict, raising=False)
    cfg = make_cfg("MODEL.DEVICE", "cpu", *opts)
    with refuses(code):
        run_transfer(cfg)
    assert not os.path.exists(cfg.OUTPUT_DIR)


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (("MODEL.WEIGHTS", "none.pth"), ("missing-file", "none.pth")),
        (("DATASETS.TRAIN", "('drawn_trian',)"), ("unknown-name", "did you mean 'drawn_train'")),
        (
            ("MODEL.ROI_HEADS.NAME", "MyHeads"),
            ("unknown-name", "'MyHeads'", "ROI_HEADS", "register_all()"),
        ),
    ],
)
def test_what_is_missing_is_named(make_cfg, opts, expected, refuses):
    with refuses(*expected):
        run_transfer(make_cfg(*opts))


def test_the_task_is_named_after_data_and_network(make_cfg):
    fpn = make_cfg("DATASETS.TEST", "('coco_2017_val',)")
    assert task_of(fpn).name(fpn) == "coco_mask_rcnn_fpn"
    opts = ("DATASETS.TEST", "('voc_2007_test',)", "MODEL.MASK_ON", False)
    c4 = make_cfg(*opts, "MODEL.BACKBONE.NAME", "build_resnet_backbone")
    assert task_of(c4).name(c4) == "voc_faster_rcnn_c4"


def bad_boxes(content, folder):
    """Add to each image boxes that are empty, outside, or cross the border."""
    for image in content["images"]:
        for x, width in ((10, 0), (500, 20), (-40, 20), (50, 40)):
            corners = [x, 5, x + width, 5, x + width, 25, x, 25]
            box = {"bbox": [x, 5, width, 20], "segmentation": [corners], "area": 20 * width}
            new = {"id": 1000 + len(content["annotations"]), "image_id": image["id"]}
            content["annotations"].append({**box, **new, "category_id": 1, "iscrowd": 0})


def no_good_boxes_in_some(content, folder):
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] % 2 or a["bbox"][0] in (10, 500, -40)
    ]


def damage_one(content, folder):
    (folder / "images" / content["images"][0]["file_name"]).write_bytes(b"")


@pytest.mark.slow
def test_odd_annotations_are_trained_and_evaluated_with_what_is_usable(
    drawn_boxes, make_cfg, tmp_path
):
    source = Path(MetadataCatalog.get(drawn_boxes[0]).json_file).parent
    for name, changes in (
        ("odd_train", (bad_boxes, no_good_boxes_in_some, damage_one)),
        ("odd_val", (bad_boxes,)),
    ):
        folder = tmp_path / name
        shutil.copytree(source, folder)
        path = folder / "instances.json"
        content = json.loads(path.read_text())
        for change in changes:
            change(content, folder)
        path.write_text(json.dumps(content))
        register_coco_instances(name, {}, str(path), str(folder / "images"))
    names = ("DATASETS.TRAIN", "('odd_train',)", "DATASETS.TEST", "('odd_val',)")
    cfg = make_cfg(*names, "SOLVER.MAX_ITER", 4)
    run_transfer(cfg)
    assert math.isfinite(result_of(cfg).metrics["bbox"]["AP"])


def test_data_are_checked_alone_without_weights_and_output(
    drawn_boxes, make_cfg, tmp_path, refuses
):
    cfg = make_cfg("MODEL.WEIGHTS", "")
    check_transfer(cfg)
    assert not Path(cfg.OUTPUT_DIR).exists()
    source = Path(MetadataCatalog.get(drawn_boxes[0]).json_file)
    content = json.loads(source.read_text())
    for item in content["annotations"]:
        item["iscrowd"] = 1
    (tmp_path / "crowds.json").write_text(json.dumps(content))
    register_coco_instances(
        "crowds", {}, str(tmp_path / "crowds.json"), str(source.parent / "images")
    )
    cfg.DATASETS.TRAIN = ("crowds",)
    with refuses("missing-data"):
        check_transfer(cfg)
