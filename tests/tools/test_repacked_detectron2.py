"""What tools/provide_detectron2.py changes, in the installed Detectron2; aliases by name alone."""

import importlib.metadata
import random
import re
import warnings
from pathlib import Path

import detectron2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetFromList, MapDataset, MetadataCatalog
from detectron2.data.datasets.pascal_voc import load_voc_instances
from detectron2.data.transforms import ExtentTransform, ResizeTransform
from detectron2.engine import AMPTrainer, SimpleTrainer, hooks
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
from detectron2.evaluation.pascal_voc_evaluation import voc_eval
from detectron2.layers import DeformConv, ROIAlignRotated
from detectron2.layers.mask_ops import paste_mask_in_image_old
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.solver import LRMultiplier
from detectron2.structures import Boxes, Instances, RotatedBoxes, pairwise_iou_rotated
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import MultiStepParamScheduler
from PIL import Image
from torch import nn

ROOT = Path(detectron2.__file__).parent


def is_repacked() -> bool:
    try:
        wheel = importlib.metadata.distribution("detectron2").read_text("WHEEL") or ""
    except importlib.metadata.PackageNotFoundError:
        return False
    return "mls_d2-provide-detectron2" in wheel


pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not is_repacked(), reason="the installed Detectron2 is not the repacked one"
    ),
]


def test_distribution_satisfies_requirements_on_detectron2():
    assert importlib.metadata.version("detectron2") == detectron2.__version__ == "0.6"
    assert importlib.metadata.packages_distributions()["detectron2"] == ["detectron2"]


def test_no_removed_name_is_left_in_the_source():
    removed = re.compile(
        r"\bnp\.(bool|int|float|object|str)\b|Image\.(LINEAR|CUBIC|ANTIALIAS)\b"
        r"|pkg_resources|\b_LRScheduler\b|torch\.cuda\.amp|torch\._six|copy=False\).*np\."
    )
    left = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted(ROOT.rglob("*.py"))
        for line in path.read_text().splitlines()
        if removed.search(line)
    ]
    assert left == []


def test_model_zoo_finds_its_configs_and_reports_others():
    from detectron2 import model_zoo  # That of the main branch needs pkg_resources.

    configs = ROOT / "model_zoo" / "configs"
    names = [str(path.relative_to(configs)) for path in configs.rglob("*.yaml")]
    assert len(names) == 92  # as many as the sdist has
    for name in names:
        assert Path(model_zoo.get_config_file(name)) == configs / name
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    assert cfg.MODEL.MASK_ON is True
    assert cfg.SOLVER.STEPS == (60000, 80000)
    with pytest.raises(RuntimeError, match="not available in Model Zoo"):
        model_zoo.get_config_file("no_such.yaml")


def test_projects_are_part_of_the_package():
    from detectron2.projects import deeplab, point_rend

    assert issubclass(point_rend.PointRendSemSegHead, nn.Module)
    assert issubclass(deeplab.DeepLabV3Head, nn.Module)


# Python


def test_map_dataset_replaces_a_failed_item_by_a_random_other_one():
    items = list(range(20))
    dataset = MapDataset(DatasetFromList(items), lambda item: None if item == 3 else item)
    expected = random.Random(42).sample(tuple(set(items) - {3}), k=1)[0]
    assert dataset[3] == expected
    assert dataset[5] == 5


# Pillow and NumPy


def test_extent_transform_is_bilinear_by_default():
    image = np.array([[0, 100, 200, 40]] * 2, dtype=np.uint8)
    half_a_pixel_right = ExtentTransform((0.5, 0, 3.5, 2), (2, 3))
    np.testing.assert_array_equal(half_a_pixel_right.apply_image(image), [[50, 150, 120]] * 2)
    whole_pixels = ExtentTransform((1, 0, 3, 2), (2, 2))
    np.testing.assert_array_equal(whole_pixels.apply_image(image), image[:, 1:3])
    np.testing.assert_array_equal(whole_pixels.apply_segmentation(image), image[:, 1:3])


def test_resize_transform_on_bytes_and_floats():
    image = np.random.randint(0, 256, (4, 6, 1), dtype=np.uint8)
    resized = ResizeTransform(4, 6, 8, 3).apply_image(image)
    pil = Image.fromarray(image[:, :, 0]).resize((3, 8), Image.BILINEAR)
    np.testing.assert_array_equal(resized[:, :, 0], np.asarray(pil))
    ramp = np.arange(4, dtype=np.float32)[None, :].repeat(2, 0)
    doubled = ResizeTransform(2, 4, 2, 8).apply_image(ramp)
    np.testing.assert_allclose(doubled[0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])


def test_paste_mask_fills_exactly_its_box():
    pasted = paste_mask_in_image_old(torch.ones(28, 28), torch.tensor([2, 3, 5, 9]), 12, 8, 0.5)
    expected = torch.zeros(12, 8, dtype=torch.uint8)
    expected[3:10, 2:6] = 1  # that function counts the last pixel in
    assert torch.equal(pasted, expected)


def test_semantic_segmentation_scores(tmp_path: Path):
    Image.fromarray(np.array([[0, 0, 1, 255]], dtype=np.uint8)).save(tmp_path / "truth.png")
    name = "repacked_semantic"
    DatasetCatalog.register(
        name, lambda: [{"file_name": "a.jpg", "sem_seg_file_name": str(tmp_path / "truth.png")}]
    )
    MetadataCatalog.get(name).set(stuff_classes=["road", "sky"], ignore_label=255)
    evaluator = SemSegEvaluator(name, distributed=False)
    evaluator.reset()
    logits = torch.tensor([[[5.0, 0, 0, 5]], [[0.0, 5, 5, 0]]])  # predicts 0, 1, 1, 0
    evaluator.process([{"file_name": "a.jpg"}], [{"sem_seg": logits}])
    scores = evaluator.evaluate()["sem_seg"]
    assert scores["IoU-road"] == pytest.approx(50.0)  # 1 of 2 pixels in the union
    assert scores["IoU-sky"] == pytest.approx(50.0)
    assert scores["pACC"] == pytest.approx(200 / 3)  # 2 of 3, the ignored one left out


def write_voc(root: Path) -> Path:
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/test.txt").write_text("000001\n000002\n")
    for name in ("000001", "000002"):
        box = "<xmin>11</xmin><ymin>21</ymin><xmax>50</xmax><ymax>60</ymax>"
        (root / f"Annotations/{name}.xml").write_text(
            "<annotation><size><width>100</width><height>80</height></size><object><name>dog</name>"
            "<pose>Left</pose><truncated>0</truncated><difficult>0</difficult>"
            f"<bndbox>{box}</bndbox></object></annotation>"
        )
    return root


def test_voc_loading_and_scores(tmp_path: Path):
    root = write_voc(tmp_path / "VOC")
    loaded = load_voc_instances(str(root), "test", ["dog"])
    assert [item["image_id"] for item in loaded] == ["000001", "000002"]
    assert loaded[0]["annotations"][0]["bbox"] == [10.0, 20.0, 50.0, 60.0]
    (tmp_path / "dets_dog.txt").write_text("000001 0.9 11 21 50 60\n000002 0.8 60 1 90 20\n")
    recall, precision, ap = voc_eval(
        str(tmp_path / "dets_{}.txt"),
        str(root / "Annotations/{}.xml"),
        str(root / "ImageSets/Main/test.txt"),
        "dog",
    )
    assert recall.tolist() == [0.5, 0.5]
    assert precision.tolist() == [1.0, 0.5]
    assert ap == 0.5


# torch


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, data: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * data).sum()}


def make_trainer(
    learning_rate: float, kind: str, folder: Path
) -> tuple[SimpleTrainer, Checkpointer]:
    model = Weights()
    optimizer = torch.optim.SGD(model.parameters(), learning_rate)
    if kind == "torch":
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    else:
        steps = MultiStepParamScheduler([1.0, 0.1], milestones=[3], num_updates=8)
        scheduler = LRMultiplier(optimizer, steps, max_iter=8)
    trainer = SimpleTrainer(model, [torch.ones(3)] * 8, optimizer)
    checkpointer = Checkpointer(model, str(folder), trainer=trainer)
    trainer.register_hooks([hooks.LRScheduler(scheduler=scheduler)])
    return trainer, checkpointer


@pytest.mark.parametrize("kind", ["torch", "detectron2"])
def test_checkpoints_hold_the_scheduler(tmp_path: Path, kind: str):
    trainer, checkpointer = make_trainer(0.1, kind, tmp_path)
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, 100)])
    trainer.train(0, 4)
    saved = torch.load(tmp_path / "model_final.pth")["trainer"]["hooks"]["LRScheduler"]
    assert saved["last_epoch"] == 4
    resumed, checkpointer = make_trainer(999.0, kind, tmp_path)
    checkpointer.resume_or_load("", resume=True)
    scheduler = resumed._hooks[0].scheduler
    assert scheduler.last_epoch == 4
    assert scheduler.base_lrs == [0.1]
    resumed.train(4, 5)
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def make_amp_trainer(device: str = "cpu", **scaler: float) -> AMPTrainer:
    model = Weights().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    grad_scaler = torch.amp.GradScaler(device, **scaler) if scaler else None
    return AMPTrainer(model, [torch.ones(3, device=device)] * 8, optimizer, grad_scaler)


def test_checkpoints_hold_the_grad_scaler(tmp_path: Path):
    trainer = make_amp_trainer(init_scale=8.0, growth_interval=2)
    for _ in range(3):  # two finite steps in a row double the scale
        loss = trainer.model(torch.ones(3))["loss"]
        trainer.optimizer.zero_grad()
        trainer.grad_scaler.scale(loss).backward()
        trainer.grad_scaler.step(trainer.optimizer)
        trainer.grad_scaler.update()
    Checkpointer(trainer.model, str(tmp_path), trainer=trainer).save("amp")
    resumed = make_amp_trainer(init_scale=4.0, growth_interval=2)
    checkpointer = Checkpointer(resumed.model, str(tmp_path), trainer=resumed)
    checkpointer.load(str(tmp_path / "amp.pth"))
    assert resumed.grad_scaler.get_scale() == 16.0
    assert resumed.grad_scaler.state_dict()["_growth_tracker"] == 1


@pytest.mark.gpu
def test_amp_trainer_steps_without_deprecation_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        trainer = make_amp_trainer("cuda")
        trainer.train(0, 2)
    assert torch.allclose(trainer.model.weight.cpu(), torch.full((3,), 0.8))


def test_anchors_are_made_without_a_warning():
    generator = DefaultAnchorGenerator(
        sizes=[[4.0]], aspect_ratios=[[1.0]], strides=[2], offset=0.5
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (anchors,) = generator([torch.zeros(1, 1, 2, 3)])
    centres = anchors.get_centers().tolist()
    assert centres == [[1, 1], [3, 1], [5, 1], [1, 3], [3, 3], [5, 3]]


# The C++ part and caffe2


def test_deform_conv_without_offsets_is_convolution():
    layer = DeformConv(2, 3, kernel_size=3, padding=1)
    images, offsets = torch.randn(1, 2, 5, 6), torch.zeros(1, 18, 5, 6)
    expected = nn.functional.conv2d(images, layer.weight, padding=1)
    torch.testing.assert_close(layer(images, offsets), expected, rtol=1e-4, atol=1e-5)


def test_what_needs_the_extension_says_so():
    boxes = RotatedBoxes(torch.tensor([[5.0, 5, 4, 2, 0]]))
    with pytest.raises(ImportError, match=r"box_iou_rotated.*Build Detectron2 from source"):
        pairwise_iou_rotated(boxes, boxes)
    pooler = ROIAlignRotated((2, 2), 1.0, 1)
    with pytest.raises(ImportError, match="roi_align_rotated_forward"):
        pooler(torch.zeros(1, 1, 8, 8), torch.tensor([[0.0, 4, 4, 2, 2, 0]]))


def test_coco_evaluation_falls_back_to_the_official_one(tmp_path: Path):
    name = "repacked_coco"
    truth = {"bbox": [10.0, 10, 40, 40], "bbox_mode": 0, "category_id": 0, "iscrowd": 0}
    record = {
        "file_name": "a.jpg",
        "image_id": 7,
        "height": 64,
        "width": 64,
        "annotations": [truth],
    }
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(thing_classes=["dog"])
    shown = Instances((64, 64), pred_classes=torch.tensor([0]), scores=torch.tensor([0.9]))
    # IoU 30 · 24 / (30 · 30) = 0.8 passes the thresholds 0.50, 0.55 … 0.80: 7 of 10
    shown.pred_boxes = Boxes(torch.tensor([[10.0, 10, 40, 34]]))
    evaluator = COCOEvaluator(name, ("bbox",), distributed=False, output_dir=str(tmp_path))
    evaluator.reset()
    evaluator.process([record], [{"instances": shown}])
    scores = evaluator.evaluate()["bbox"]
    assert scores["AP50"] == pytest.approx(100.0)
    assert scores["AP"] == pytest.approx(70.0)


def test_analysis_and_tracing_work_without_caffe2():
    import detectron2.export
    from detectron2.utils.analysis import parameter_count

    assert not hasattr(detectron2.export, "Caffe2Tracer")
    assert parameter_count(nn.Linear(3, 2))[""] == 8
    adapter = detectron2.export.TracingAdapter(
        Weights(), torch.ones(3), inference_func=lambda model, data: [model(data)]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated altogether
        traced = torch.jit.trace(adapter, (torch.ones(3),))
    assert adapter.outputs_schema(traced(torch.full((3,), 2.0)))[0]["loss"].item() == 6.0
