"""The loader: which images, in which order, whatever the number of workers."""

import numpy as np
import pytest
import torch
from PIL import Image

from mls_d2.config import get_cfg
from mls_d2.errors import UserError
from mls_d2.registration import register_all
from pretrain.data import EpochBatches, ImageReport, build_loader, image_paths


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(10):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(
            tmp_path / f"{index}.png"
        )
    return tmp_path


def config(workers: int = 0, batch: int = 4):
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = batch
    cfg.PRETRAIN.AUGMENT.CROP_SIZE = 32
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.SEED = 3
    return cfg


def take(loader, count):
    stream = iter(loader)
    return [next(stream) for _ in range(count)]


def same(one, other) -> bool:
    return torch.equal(one.views, other.views) and torch.equal(one.geometry, other.geometry)


@pytest.mark.slow
def test_batches_are_the_same_with_any_number_of_workers(folder):
    paths = image_paths([str(folder)])
    alone = take(build_loader(config(0), paths, start=0, rank=0, world_size=1), 5)
    helped = take(build_loader(config(2), paths, start=0, rank=0, world_size=1), 5)
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_starting_later_gives_what_would_have_come_then(folder):
    paths = image_paths([str(folder)])
    whole = take(build_loader(config(), paths, start=0, rank=0, world_size=1), 6)
    rest = take(build_loader(config(), paths, start=3, rank=0, world_size=1), 3)
    assert all(same(a, b) for a, b in zip(whole[3:], rest, strict=True))


def test_views_differ_between_epochs_and_between_the_two_crops(folder):
    paths = image_paths([str(folder)])
    batches = take(build_loader(config(batch=10), paths, start=0, rank=0, world_size=1), 2)
    first, second = (batch.views[:, batch.index.argsort()] for batch in batches)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_an_epoch_shows_each_image_once_and_drops_the_rest():
    batches = EpochBatches(11, 4, seed=0)
    stream = iter(batches)
    epoch = [next(stream) for _ in range(2)]
    seen = [position for batch in epoch for _, position in batch]
    assert len(set(seen)) == len(seen) == 8
    assert {number for batch in epoch for number, _ in batch} == {0}
    assert {number for number, _ in next(stream)} == {1}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_processes_share_out_the_batch_of_one_process(world_size):
    whole = iter(EpochBatches(20, 8, seed=1))
    parts = [
        iter(EpochBatches(20, 8, seed=1, rank=r, world_size=world_size)) for r in range(world_size)
    ]
    for _ in range(5):
        assert next(whole) == [item for part in parts for item in next(part)]


def test_a_broken_image_is_replaced_and_named(folder):
    (folder / "3.png").write_bytes(b"no image")
    paths = image_paths([str(folder)])
    (batch,) = take(build_loader(config(batch=10), paths, start=0, rank=0, world_size=1), 1)
    assert len(batch.broken) == 1
    assert "3.png" in batch.broken[0]
    assert batch.views.shape[1] == 10


def test_images_smaller_than_the_crop_are_enlarged_and_reported(folder):
    Image.fromarray(np.full((20, 20, 3), 99, np.uint8)).save(folder / "small.png")
    paths = image_paths([str(folder)])
    (batch,) = take(build_loader(config(batch=11), paths, start=0, rank=0, world_size=1), 1)
    assert batch.enlarged == [str(folder / "small.png")]
    small = batch.views[:, batch.index == paths.index(str(folder / "small.png"))]
    assert (small == 99).all()


def test_when_nothing_can_be_read_the_run_stops(tmp_path):
    for index in range(4):
        (tmp_path / f"{index}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 4 images can be read"):
        take(build_loader(config(), image_paths([str(tmp_path)]), start=0, rank=0, world_size=1), 1)


def test_too_many_broken_images_stop_the_run_and_are_counted_once(caplog):
    broken = ImageReport(total=100, max_share=0.02)
    for _ in range(5):
        broken.update(["a.jpg: truncated", "b.jpg: truncated"])
    assert len([r for r in caplog.records if "a.jpg" in r.getMessage()]) == 1
    with pytest.raises(
        UserError, match=r"3 of 100 images are broken.*MAX_BROKEN_SHARE 0.02.*c.jpg"
    ):
        broken.update(["c.jpg: truncated"])


def test_one_warning_tells_of_images_smaller_than_the_crop(caplog):
    report = ImageReport(total=100, max_share=0.0)
    report.update([], ["a.jpg", "b.jpg"])
    report.update([], ["c.jpg"])
    assert [record.getMessage() for record in caplog.records] == [
        "'a.jpg' is smaller than PRETRAIN.AUGMENT.CROP_SIZE and was enlarged"
    ]
    report.summarise()
    assert "3 smaller than the crop" in caplog.records[-1].getMessage()


def test_unknown_names_and_missing_files_are_refused(tmp_path, monkeypatch):
    register_all()
    with pytest.raises(
        UserError, match="neither a registered dataset nor a folder; did you mean 'coco_2017_train'"
    ):
        image_paths(["coco_2017_trian"])
    with pytest.raises(UserError, match="DATASETS.TRAIN is empty"):
        image_paths([])
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no image folder.*nowhere"):
        image_paths(["coco_2017_unlabeled"])
