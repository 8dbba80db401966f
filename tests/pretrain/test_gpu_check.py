"""The checks of pretraining, on the CPU, and that they fail where they should."""

import dataclasses
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from mls_d2.checkpoint.backbone_file import write_backbone
from mls_d2.run.gpu_check import CheckFailed
from pretrain import gpu_check
from pretrain.gpu_check import check_method, check_rates, check_resume, quick_cfg, write_images
from pretrain.methods import METHODS
from pretrain.samples import noise_batch

CPU = torch.device("cpu")
SMALL = {
    "SOLVER__IMS_PER_BATCH": 4,
    "PRETRAIN__AUGMENT__CROP_SIZE": 32,
    "MOCO__DICTIONARY_SIZE": 16,
}


@pytest.fixture
def root(request):
    return request.config.rootpath


def test_every_method_has_a_check(root):
    assert set(gpu_check.method_checks(root, CPU)) == {f"method {name}" for name in METHODS.names()}


def test_steps_that_agree_and_steps_that_do_not(root, monkeypatch):
    cfg = quick_cfg(root, "mocov2", **SMALL)
    text = check_method(cfg, CPU)
    assert text.startswith("differs by 0.0e+00; first loss in bfloat16 ")
    bfloat16, double = (float(word.rstrip(",")) for word in (text.split()[7], text.split()[-1]))
    assert bfloat16 == pytest.approx(double, rel=0.2)
    real, calls = gpu_check.losses, []

    def drifts(cfg, device, **options):
        calls.append(device)
        return real(cfg, device, **options) * (1 + 1e-4 * (len(calls) == 2))

    monkeypatch.setattr(gpu_check, "losses", drifts)
    with pytest.raises(CheckFailed, match=r"differs by 1\.0e-04"):
        check_method(cfg, CPU)
    monkeypatch.setattr(
        gpu_check, "losses", lambda *_, dtype=torch.float64: torch.ones(3) / (dtype.itemsize - 4)
    )
    with pytest.raises(CheckFailed, match="in bfloat16 the losses are"):
        check_method(cfg, CPU)


def test_losses_are_those_of_training(root):
    found = gpu_check.losses(quick_cfg(root, "mocov2", **SMALL), CPU)
    again = gpu_check.losses(quick_cfg(root, "mocov2", **SMALL, SOLVER__BASE_LR=0.5), CPU)
    assert found[0] == again[0]
    assert found[1] != again[1]


def test_noise_is_cut_as_the_loader_cuts(root):
    batch = noise_batch(quick_cfg(root, "resim", **SMALL), 3)
    assert [tuple(view.shape) for view in batch.views] == [(3, 3, 32, 32)] * 2
    assert torch.equal(batch.flips[0], batch.flips[1])  # ReSim's views are mirrored together
    right, lower = (batch.rectangles[..., i] + batch.rectangles[..., i + 2] for i in (0, 1))
    assert (right <= 640).all()
    assert (lower <= 480).all()
    assert torch.equal(noise_batch(quick_cfg(root, "resim", **SMALL), 3).views[0], batch.views[0])
    moved = gpu_check.moved(
        dataclasses.replace(batch, extras={"a": torch.ones(3)}), CPU, torch.half
    )
    assert moved.views[1].dtype is torch.half
    assert moved.rectangles.dtype is torch.float32
    assert moved.extras["a"].sum() == 3


def test_images_are_of_the_size_of_cocos(tmp_path):
    write_images(tmp_path / "images", 2)
    files = sorted((tmp_path / "images").iterdir())
    assert len(files) == 2
    with Image.open(files[0]) as image:
        assert image.size == (640, 480)
    assert 20_000 < files[0].stat().st_size < 150_000


def test_the_slower_one_is_the_bound(root, tmp_path, monkeypatch):
    write_images(tmp_path / "images", 8)
    data = {"DATASETS__TRAIN": f"('{tmp_path / 'images'}',)", "DATALOADER__NUM_WORKERS": 0}
    cfg = quick_cfg(root, "mocov2", **SMALL, **data, MODEL__DEVICE="cpu")
    # Seconds of the clock: a batch of the loader, then a step.
    for times, bound in (([0, 4, 4, 5], "the loader"), ([0, 1, 1, 5], "the step")):
        clock = iter(times)
        fake = SimpleNamespace(perf_counter=lambda clock=clock: float(next(clock)))
        monkeypatch.setattr(gpu_check, "time", fake)
        text = check_rates(cfg, CPU, batches=1)
        rates = [4 / (b - a) for a, b in (times[:2], times[2:])]
        assert text == (
            f"loader {rates[0]:.0f} images/s with 0 workers, step {rates[1]:.0f} images/s: "
            f"{bound} is the bound"
        )


STUB = """
    import pathlib, shutil, sys, time
    folder = pathlib.Path(sys.argv[-1])
    known = (folder / "model_0000001.pth.sha256").exists()
    folder.mkdir(exist_ok=True)
    if folder.name == "killed" and not known:
        (folder / "model_0000001.pth.sha256").touch()
        time.sleep(60)
    if folder.name == "killed":
        print(WORD, "it")
    if CODE:
        print("error: out of luck", file=sys.stderr)
        sys.exit(CODE)
    value = VALUE if folder.name == "killed" else 1.0
    shutil.copy(folder.parent / f"{value}.pth", folder / "backbone.pth")
"""


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"WORD": "'resumed from'", "CODE": 0, "VALUE": 1.001}, None),
        ({"WORD": "'resumed from'", "CODE": 0, "VALUE": 1.1}, "differs by 1.0e-01"),
        ({"WORD": "''", "CODE": 0, "VALUE": 1.0}, "began from the start"),
        ({"WORD": "'resumed from'", "CODE": 2, "VALUE": 1.0}, "exit code 2: error: out of luck"),
    ],
)
def test_a_killed_run_must_resume_and_end_with_the_same_weights(root, tmp_path, values, found):
    text = textwrap.dedent(STUB)
    for name, value in values.items():
        text = text.replace(name, str(value))
    (tmp_path / "stub.py").write_text(text)
    for value in (1.0, values["VALUE"]):
        weights = {"stem.conv1.weight": torch.full((2, 2), value)}
        write_backbone(str(tmp_path / f"{value}.pth"), weights, {})
    tool = (sys.executable, "-S", str(tmp_path / "stub.py"))
    if found is None:
        assert check_resume(tool, root, tmp_path, CPU) == (
            "resumed; the backbone differs by 1.0e-03"
        )
        return
    with pytest.raises(CheckFailed, match=found):
        check_resume(tool, root, tmp_path, CPU)
