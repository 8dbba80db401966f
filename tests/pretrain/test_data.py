"""The loader: which images, in which order, for any number of workers."""

from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from mls_d2.config.defaults import get_cfg
from mls_d2.run.registration import register_all
from pretrain.data import EpochBatches, ImageReport, build_loader, image_source
from pretrain.packing import Packing, pack
from tests.pretrain.conftest import write_images


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path, [f"{index}.png" for index in range(10)])


def config(workers: int = 0, batch: int = 4):
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = batch
    cfg.PRETRAIN.AUGMENT.CROP_SIZE = 32
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.SEED = 3
    return cfg


def load(cfg, source, count, start=0, rank=0, world_size=1):
    """Return the first batches of a loader."""
    loader = build_loader(cfg, source, start=start, rank=rank, world_size=world_size)
    return list(islice(loader, count))


def same(one, other) -> bool:
    groups = zip(one.groups, other.groups, strict=False)
    return all(torch.equal(*pair) for pair in groups) and torch.equal(
        one.geometry[:2], other.geometry[:2]
    )


@pytest.mark.slow
def test_batches_are_the_same_with_any_number_of_workers(folder):
    source = image_source([str(folder)])
    alone = load(config(0), source, 5)
    helped = load(config(2), source, 5)
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_starting_later_gives_what_would_have_come_then(folder):
    source = image_source([str(folder)])
    whole = load(config(), source, 6)
    rest = load(config(), source, 3, start=3)
    assert all(same(a, b) for a, b in zip(whole[3:], rest, strict=True))


def test_views_differ_between_epochs_and_between_the_two_crops(folder):
    source = image_source([str(folder)])
    batches = load(config(batch=10), source, 2)
    first, second = (batch.groups[0][:, batch.index.argsort()] for batch in batches)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_local_views_are_of_the_same_image(folder):
    for index in range(10):  # Colours of their own, in every crop.
        Image.fromarray(np.full((40, 50, 3), 20 * index, np.uint8)).save(folder / f"{index}.png")
    source, cfg = image_source([str(folder)]), config()
    (plain,) = load(cfg, source, 1)
    cfg.PRETRAIN.AUGMENT.LOCAL_CROPS, cfg.PRETRAIN.AUGMENT.LOCAL_SIZE = 3, 16
    (batch,) = load(cfg, source, 1)
    assert same(plain, batch)
    assert batch.groups[1].shape == (3, 4, 16, 16, 3)
    assert batch.geometry.shape == (5, 4, 5)
    assert batch.image_sizes.tolist() == [[40, 50]] * 4
    for image in range(4):
        colours = [group[:, image].unique().tolist() for group in batch.groups]
        assert colours[0] == colours[1]


def test_an_epoch_shows_each_image_once_and_drops_the_rest():
    batches = EpochBatches([11], 4, seed=0)
    stream = iter(batches)
    epoch = [next(stream) for _ in range(2)]
    seen = [position for batch in epoch for _, position in batch]
    assert len(set(seen)) == len(seen) == 8
    assert {number for batch in epoch for number, _ in batch} == {0}
    assert {number for number, _ in next(stream)} == {1}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_processes_share_out_the_batch_of_one_process(world_size):
    whole = iter(EpochBatches([20], 8, seed=1))
    parts = [
        iter(EpochBatches([20], 8, seed=1, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    for _ in range(5):
        assert next(whole) == [item for part in parts for item in next(part)]


def test_shards_are_mixed_window_by_window_and_every_image_comes_once():
    stream = iter(EpochBatches([4] * 6, 4, seed=0, window=2))
    epochs = np.array([[next(stream) for _ in range(6)] for _ in range(2)])[..., 1].reshape(2, 24)
    for positions in epochs:
        assert sorted(positions) == list(range(24))
        for window in positions.reshape(3, 8) // 4:
            assert len(set(window)) == 2
            assert len(set(window[:4])) == 2  # mixed, not one after the other
    assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize("world_size", [2, 4])
def test_hosts_share_an_epoch_of_shards_without_overlap(folder, tmp_path, world_size):
    shards = tmp_path / "shards"
    pack(image_source([str(folder)]), str(shards), Packing(per_shard=3))
    cfg = config(batch=4)
    cfg.PRETRAIN.SHARD_WINDOW = 2
    source = image_source([str(shards)])
    assert source.counts.tolist() == [3, 3, 3, 1]
    (*whole,) = load(cfg, source, 4)
    hosts = [
        load(cfg, image_source([str(shards)]), 4, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    for step, batch in enumerate(whole):
        assert torch.equal(batch.index, torch.cat([host[step].index for host in hosts]))
        assert torch.equal(
            batch.groups[0], torch.cat([host[step].groups[0] for host in hosts], dim=1)
        )
    for first in (0, 2):  # an epoch of ten is two batches of four, without repetition
        seen = torch.cat([batch.index for batch in whole[first : first + 2]])
        assert len(seen.unique()) == 8


@pytest.mark.parametrize("start", range(11))
def test_starting_anywhere_among_shards_gives_what_would_have_come_then(start):
    options = {"seed": 2, "window": 2}
    stream, later = (
        iter(EpochBatches([5, 3, 4, 6, 3], 4, start=first, **options)) for first in (0, start)
    )
    batches = [next(stream) for _ in range(14)]
    assert batches[start:] == [next(later) for _ in range(14 - start)]
    assert {epoch for epoch, _ in batches[5]} == {1}


def test_shards_with_other_data_are_refused(folder, tmp_path, refuses):
    shards = tmp_path / "shards"
    pack(image_source([str(folder)]), str(shards), Packing())
    with refuses("mixed-data"):
        image_source([str(shards), str(folder)])
    batches = load(config(), image_source([str(shards)]), 2)
    assert {int(i) for batch in batches for i in batch.index} <= set(range(10))


def test_a_broken_image_is_replaced_and_named(folder):
    (folder / "3.png").write_bytes(b"no image")
    source = image_source([str(folder)])
    (batch,) = load(config(batch=10), source, 1)
    assert len(batch.broken) == 1
    assert batch.broken[0][0] == str(folder / "3.png")
    assert batch.groups[0].shape[1] == 10
    # The index tells which image is seen, so that its annotations are found.
    assert sorted(batch.index.tolist()) == [0, 1, 2, 4, 4, 5, 6, 7, 8, 9]


def test_images_smaller_than_the_crop_are_enlarged_and_reported(folder):
    Image.fromarray(np.full((20, 20, 3), 99, np.uint8)).save(folder / "small.png")
    source = image_source([str(folder)])
    (batch,) = load(config(batch=11), source, 1)
    assert batch.enlarged == [str(folder / "small.png")]
    small = batch.groups[0][:, batch.index == list(source.paths).index(str(folder / "small.png"))]
    assert (small == 99).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_when_nothing_can_be_read_the_run_stops(tmp_path, workers, refuses):
    for index in range(120):
        (tmp_path / f"{index}.jpg").write_bytes(b"")
    source = image_source([str(tmp_path)])
    with refuses("damaged-file", "none of 100 images in a row can be read") as caught:
        load(config(workers), source, 1)
    assert "Traceback" not in str(caught.value)


def test_an_image_that_is_broken_counts_once_for_any_number_of_faults(caplog, refuses):
    report = ImageReport(total=100, max_share=0.02)
    for turn in range(5):
        report.update([("a.jpg", f"a.jpg: fault {turn}"), ("b.jpg", "b.jpg: truncated")])
    assert len(caplog.records) == 2
    with refuses("too-many-broken", "3 of 100 ", "c.jpg"):
        report.update([("c.jpg", "c.jpg: truncated")])


def test_small_images_are_reported_once(caplog):
    report = ImageReport(total=100, max_share=0.0)
    report.update([], ["a.jpg", "b.jpg"])
    report.update([], ["c.jpg"])
    assert [record.args for record in caplog.records] == [("a.jpg",)]
    report.summarise()
    assert "3 smaller than the crop" in caplog.records[-1].getMessage()


def test_unknown_names_and_missing_files_are_refused(tmp_path, monkeypatch, refuses):
    register_all()
    with refuses("unknown-name", "'coco_2017_train'"):
        image_source(["coco_2017_trian"])
    with refuses("missing-data"):
        image_source([])
    name = "three files of which one is there"
    (tmp_path / "0.png").write_bytes(b"")
    records = [{"file_name": str(tmp_path / f"{index}.png")} for index in range(3)]
    DatasetCatalog.register(name, lambda: records)
    absent = f"2 of 3 images are missing:\n  {tmp_path}/1.png\n  {tmp_path}/2.png"
    with refuses("missing-data", absent):
        image_source([name])
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    with refuses("missing-data", "nowhere"):
        image_source(["coco_2017_unlabeled"])
