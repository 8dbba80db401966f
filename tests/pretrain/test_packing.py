"""Shards: what goes in comes out, by position, in every reader."""

import errno
import io
import os
import signal
import struct
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image, features

from mls_d2.data.images import BrokenImageError, open_image
from pretrain.packing import Packing, index_shards, pack
from pretrain.sources import FileSource, ShardSource


@pytest.fixture
def files(tmp_path) -> FileSource:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(11):
        pixels = rng.integers(0, 256, (30 + index, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.{'png' if index % 3 else 'jpg'}")
    return FileSource(sorted(map(str, folder.iterdir())))


def content(source: ShardSource) -> list[bytes]:
    return [source.read(position) for position in range(int(source.counts.sum()))]


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_hold_every_file_once_in_a_random_order(files, tmp_path, workers):
    folder = str(tmp_path / "shards")
    assert pack(files, folder, Packing(per_shard=4, seed=3), workers=workers) == 11
    source = ShardSource(folder)
    assert source.counts.tolist() == [4, 4, 3]
    order = np.random.default_rng(3).permutation(11)
    assert content(source) == [files.read(int(position)) for position in order]
    assert not source.synthetic


def test_webdataset_reads_the_same(files, tmp_path):
    pack(files, str(tmp_path / "shards"), Packing(per_shard=4))
    urls = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    stream = webdataset.WebDataset(urls, shardshuffle=False)
    found = [next(value for key, value in item.items() if key in ("jpg", "png")) for item in stream]
    assert found == content(ShardSource(str(tmp_path / "shards")))


def test_images_are_reduced_to_the_short_side_and_never_enlarged(files, tmp_path):
    pack(files, str(tmp_path / "shards"), Packing(per_shard=20, short_side=35, quality=95))
    order = np.random.default_rng(0).permutation(11)
    for data, position in zip(content(ShardSource(str(tmp_path / "shards"))), order, strict=True):
        packed = open_image(data)
        original = open_image(files.read(int(position)))
        shrink = min(1.0, 35 / min(original.height, original.width))
        assert packed.format == "JPEG"
        assert packed.height == pytest.approx(original.height * shrink, abs=0.5)
        assert packed.width == pytest.approx(original.width * shrink, abs=0.5)


def test_an_interrupted_packing_goes_on_and_gives_the_same(files, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pack(files, str(whole), Packing(per_shard=3))
    calls = iter(range(100))
    read = files.read

    def failing(position: int) -> bytes:
        if next(calls) == 7:
            raise KeyboardInterrupt
        return read(position)

    monkeypatch.setattr(files, "read", failing)
    with pytest.raises(KeyboardInterrupt):
        pack(files, str(cut), Packing(per_shard=3))
    assert not (cut / "shards.json").exists()
    pack(files, str(cut), Packing(per_shard=3))
    assert next(calls) == 8 + 5  # the two whole shards were not read again
    for path in whole.iterdir():
        assert path.read_bytes() == (cut / path.name).read_bytes()
    assert len(list(cut.iterdir())) == len(list(whole.iterdir()))


def test_broken_images_are_left_out_and_named(files, tmp_path, caplog):
    with open(files.name(5), "wb") as file:
        file.write(b"no image")
    assert pack(files, str(tmp_path / "shards"), Packing(per_shard=4)) == 10
    assert sum(files.name(5) in record.getMessage() for record in caplog.records) == 1


def test_images_that_no_jpeg_holds_are_left_out_and_shards_without_any_refused(
    tmp_path, caplog, refuses
):
    path = str(tmp_path / "long.png")
    Image.new("L", (1, 70000)).save(path)
    assert pack(FileSource([path]), str(tmp_path / "whole"), Packing()) == 1
    with refuses("missing-data"):
        pack(FileSource([path]), str(tmp_path / "reduced"), Packing(short_side=8))
    assert f"left out a broken image: {path}: " in caplog.text


def test_shards_from_elsewhere_are_indexed(files, tmp_path):
    members = [("a.txt", b"a caption"), ("a.jpg", files.read(0)), ("b.png", files.read(1))]
    with tarfile.open(tmp_path / "part.tar", "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert index_shards(str(tmp_path)) == 2
    assert content(ShardSource(str(tmp_path))) == [files.read(0), files.read(1)]


@pytest.mark.parametrize("kind", ["JPEG2000", "AVIF", "TIFF", "PNG", "BMP"])
def test_formats_under_another_suffix_are_not_lost(tmp_path, kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    pixels = np.full((30, 40, 3), (10, 120, 200), dtype=np.uint8)
    pixels[:, :20] = 250
    file = FileSource([str(tmp_path / "a.jpg")])
    Image.fromarray(pixels).save(file.name(0), kind)
    shards = tmp_path / "shards"
    assert pack(file, str(shards), Packing()) == 1
    (data,) = content(ShardSource(str(shards)))
    assert data == file.read(0)
    error = np.abs(open_image(data).decode().astype(int) - pixels)
    assert error.max() == 0 if kind != "AVIF" else error.mean() < 4


def test_odd_exif_does_not_stop_packing(tmp_path):
    entry = struct.pack("<HHI", 0x0128, 2, 1) + b"x\0\0\0"  # ResolutionUnit as text
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4)
    path = str(tmp_path / "a.jpg")
    Image.new("RGB", (40, 30)).save(path, exif=exif)
    assert pack(FileSource([path]), str(tmp_path / "shards"), Packing(short_side=8)) == 1


def test_missing_and_cut_shards_are_named(files, tmp_path, refuses):
    folder = tmp_path / "shards"
    pack(files, str(folder), Packing(per_shard=4))
    source = ShardSource(str(folder))
    shard = folder / "000001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:5000])
    with refuses("missing-data", "1 of 3 shards", f"000001.tar has 5000 of {len(data)} bytes"):
        ShardSource(str(folder))
    with pytest.raises(BrokenImageError, match=r"000001.tar\[3\]: the shard is cut"):
        source.read(7)
    with refuses("damaged-file", "000001.tar"):
        index_shards(str(folder))
    shard.unlink()
    with refuses("missing-data", "000001.tar is missing"):
        ShardSource(str(folder))


def test_a_full_disk_names_the_shard_and_what_began_is_finished(
    files, tmp_path, monkeypatch, refuses
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "addfile", full)
        with refuses("no-space") as caught:
            pack(files, str(tmp_path / "shards"), Packing())
    assert caught.match("shards/000000.partial")
    assert pack(files, str(tmp_path / "shards"), Packing()) == len(files.paths)
    (tmp_path / "shards/packing.json").write_text("[7]")
    with refuses("damaged-file"):
        pack(files, str(tmp_path / "shards"), Packing())


def test_folders_of_others_and_other_packings_are_refused(files, tmp_path, refuses):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("")
    with refuses("foreign-folder"):
        pack(files, str(mine), Packing())
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    pack(files, str(tmp_path / "shards"), Packing(per_shard=4))
    with refuses("changed-run", "quality: 90 there, 80 now"):
        pack(files, str(tmp_path / "shards"), Packing(per_shard=4, quality=80))
    with refuses("bad-value"):
        Packing(quality=0)
    with refuses("missing-data"):
        index_shards(str(mine))
    with refuses("missing-file"):
        ShardSource(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{}", "damaged-file"),
        ("[", "damaged-file"),
        ('{"x":' + "[" * 100_000, "damaged-file"),
        ('{"format": 1, "synthetic": false, "shards": [["a.tar", "1", 2]]}', "damaged-file"),
        ('{"format": 9, "synthetic": false, "shards": [["a.tar", 1, 2]]}', "damaged-file"),
        ('{"format": 1, "synthetic": false, "shards": []}', "missing-data"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, refuses, content, code):
    (tmp_path / "shards.json").write_text(content)
    with refuses(code, "shards.json"):
        ShardSource(str(tmp_path))


def end_this_process(_: int) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


@pytest.mark.timeout(60)
def test_a_killed_worker_ends_the_packing(files, tmp_path, monkeypatch, refuses):
    monkeypatch.setattr(files, "read", end_this_process)
    with refuses("dead-worker"):
        pack(files, str(tmp_path / "shards"), Packing(per_shard=4), workers=2)
