"""Images of every common kind as 8-bit RGB, and folders of them."""

import errno
import io
import os
import struct
from collections import Counter

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mls_d2.data.images import (
    BrokenImageError,
    image_size,
    list_images,
    open_image,
    printable,
    read_image,
)

Y, X = np.mgrid[0:48, 0:64]
# Smooth, so that JPEG keeps it nearly as it is.
PHOTO = np.stack([X * 4, Y * 5, 255 - X * 2 - Y], axis=-1).clip(0, 255).astype(np.uint8)
GREY = np.asarray(Image.fromarray(PHOTO).convert("L"))
RAMP = np.linspace(0, 1, 64 * 48).reshape(48, 64)
LEVELS = (RAMP * 255).round()
TRANSPARENT = np.concatenate([PHOTO, np.zeros((48, 64, 1), np.uint8)], axis=2)
PALETTE = Image.fromarray(PHOTO).quantize(32)
OPAQUE = np.asarray(PALETTE) != 3
SHARE = (X * 4).astype(np.uint8)  # of the colour in what is half transparent, of 255
SPOILT = np.where(X + Y == 0, np.inf, np.where(X + Y == 1, np.nan, RAMP)).astype(np.float32)


def rgb(grey):
    return np.repeat(np.asarray(grey)[..., None], 3, axis=2)


def close(got, expected, tolerance=4.0):
    difference = np.abs(got.astype(int) - expected.astype(int)).mean()
    return got.shape == expected.shape and difference < tolerance


KINDS = {
    "jpg": (Image.fromarray(PHOTO), "a.jpg", PHOTO, 4),
    "png": (Image.fromarray(PHOTO), "a.png", PHOTO, 0.01),
    "bmp": (Image.fromarray(PHOTO), "a.bmp", PHOTO, 0.01),
    "webp": (Image.fromarray(PHOTO), "a.webp", PHOTO, 6),
    "CMYK": (Image.fromarray(PHOTO).convert("CMYK"), "a.jpg", PHOTO, 6),
    "grey jpg": (Image.fromarray(GREY), "a.jpg", rgb(GREY), 4),
    "grey png": (Image.fromarray(GREY), "a.png", rgb(GREY), 0.01),
    "palette": (Image.fromarray(PHOTO).quantize(64), "a.png", PHOTO, 12),
    "16 bit": (Image.fromarray((RAMP * 65535).astype(np.uint16)), "a.png", rgb(LEVELS), 0.6),
    "16 bit, dark": (
        Image.fromarray((RAMP * 200).astype(np.uint16)), "a.png", np.zeros_like(PHOTO), 0.6
    ),
    "16 bit, a transparent grey": (
        Image.fromarray(np.where(X < 9, 7, 65535 - 257 * X).astype(np.uint16)), "a.png",
        rgb(np.where(X < 9, 255, 255 - X)), 0.01,
    ),
    "32 bit": (Image.fromarray((RAMP * 65535).astype(np.int32)), "a.tif", rgb(LEVELS), 0.6),
    "float 0 to 1": (Image.fromarray(RAMP.astype(np.float32)), "a.tif", rgb(LEVELS), 0.6),
    "float, some not finite": (Image.fromarray(SPOILT), "a.tif", rgb(LEVELS), 0.6),
    "float, overshot": (
        Image.fromarray((RAMP * 1.2 - 0.1).astype(np.float32)), "a.tif",
        rgb((RAMP * 306 - 25.5).clip(0, 255)), 0.6,
    ),
    "float 0 to 255": (Image.fromarray(LEVELS.astype(np.float32)), "a.tif", rgb(LEVELS), 0.01),
    "transparent": (Image.fromarray(TRANSPARENT), "a.png", np.full_like(PHOTO, 255), 0.01),
    "half transparent grey": (
        Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(SHARE)]), "a.png",
        255 - (255 - rgb(GREY)) * (rgb(SHARE) / 255), 1,
    ),
    "a transparent colour of a palette": (
        PALETTE, "a.png", np.where(OPAQUE[..., None], PALETTE.convert("RGB"), 255), 0.01
    ),
}  # fmt: skip
TRANSPARENCY = {"16 bit, a transparent grey": 7, "a transparent colour of a palette": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_rgb(tmp_path, kind):
    image, name, expected, tolerance = KINDS[kind]
    more = {"transparency": TRANSPARENCY[kind]} if kind in TRANSPARENCY else {}
    image.save(tmp_path / name, quality=95, **more)
    assert close(read_image(str(tmp_path / name)), expected, tolerance)


def test_a_tiff_whose_white_is_zero_is_turned_round():
    file = io.BytesIO()
    Image.fromarray((65535 - RAMP * 65535).astype(np.uint16)).save(file, "TIFF")
    tags = [struct.pack("<HHII", 262, 3, 1, value) for value in (1, 0)]
    assert file.getvalue().count(tags[0]) == 1
    assert close(open_image(file.getvalue().replace(*tags)).decode(), rgb(LEVELS), 0.6)


def test_a_png_with_long_text_is_read():
    text, file = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("prompt", "x" * (2 << 20), zip=True)
    Image.fromarray(PHOTO).save(file, "PNG", pnginfo=text)
    assert np.array_equal(open_image(file.getvalue()).decode(), PHOTO)


def test_numbers_beyond_16_bits_are_refused():
    file = io.BytesIO()
    Image.fromarray((RAMP * 2**30).astype(np.int32)).save(file, "TIFF")
    with pytest.raises(BrokenImageError, match=r"a.tif: its values reach 1.07374e\+09"):
        open_image(file.getvalue(), name="a.tif").decode()


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, PHOTO), (2, PHOTO[:, ::-1]), (3, PHOTO[::-1, ::-1]), (4, PHOTO[::-1]),
        (5, PHOTO.swapaxes(0, 1)), (6, np.rot90(PHOTO, -1)), (7, np.rot90(PHOTO.swapaxes(0, 1), 2)),
        (8, np.rot90(PHOTO)), (9, PHOTO),
    ],
)  # fmt: skip
def test_images_are_turned_once_and_the_header_has_their_size(
    tmp_path, suffix, orientation, turned
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PHOTO).save(path, quality=95, exif=exif)
    image = open_image(path.read_bytes())
    assert close(image.decode(), turned)
    assert (image.height, image.width) == image_size(str(path)) == turned.shape[:2]


def exif_of(tag, kind, value):
    """EXIF with Orientation 6 and one entry of an odd type."""
    entries = [(0x0112, 3, struct.pack("<HH", 6, 0)), (tag, kind, value)]
    body = b"".join(struct.pack("<HHI", t, k, 1) + v for t, k, v in sorted(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (0x0128, 2, b"x\0\0\0"),  # ResolutionUnit as text
        (0x0100, 9, struct.pack("<i", -1)),  # ImageWidth below 0
        (0x0213, 11, struct.pack("<f", 1.5)),  # YCbCrPositioning as a float
        (0x8769, 4, struct.pack("<I", 2**31)),  # an IFD beyond the end
        (0x0132, 77, b"abcd"),
    ],
)
def test_odd_exif_never_stops_a_run(tmp_path, tag, kind, value):
    path = tmp_path / "a.jpg"
    Image.fromarray(PHOTO).save(path, quality=95, exif=exif_of(tag, kind, value))
    image = open_image(path.read_bytes())
    assert image.decode().shape[:2] == (image.height, image.width)
    assert close(image.decode(), np.rot90(PHOTO, -1)) or close(image.decode(), PHOTO)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_reduced_decoding_gives_the_means_of_blocks(tmp_path, factor):
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", quality=95)
    reduced = open_image((tmp_path / "a.jpg").read_bytes()).decode(factor)
    blocks = PHOTO.reshape(48 // factor, factor, 64 // factor, factor, 3).mean(axis=(1, 3))
    assert close(reduced, blocks)


def test_a_jpeg_that_is_odd_but_whole_is_read(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", quality=95)
    data = (tmp_path / "a.jpg").read_bytes()
    # A stray byte before the end marker, of which libjpeg warns.
    (tmp_path / "a.jpg").write_bytes(data[:-2] + b"\x11" + data[-2:])
    assert close(read_image(str(tmp_path / "a.jpg")), PHOTO)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_truncated_files_are_broken_and_named(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(BrokenImageError, match=f"whole.{suffix}"):
        read_image(str(path))


def test_text_and_missing_files_are_broken(tmp_path):
    (tmp_path / "a.jpg").write_text("<html>not found</html>")
    for read in (read_image, image_size):
        with pytest.raises(BrokenImageError, match=r"a\.jpg: no image, or of an unknown kind$"):
            read(str(tmp_path / "a.jpg"))
        with pytest.raises(BrokenImageError, match="No such file"):
            read(str(tmp_path / "b.jpg"))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["pipe", "endless", "folder", "loop", "null\0", "line\n"])
def test_what_is_no_file_is_broken_at_once(tmp_path, kind):
    path = str(tmp_path / f"{kind}.jpg")
    make = {
        "pipe": os.mkfifo, "folder": os.mkdir,
        "endless": lambda path: os.symlink("/dev/zero", path),
        "loop": lambda path: os.symlink(path, path),
    }.get(kind)  # fmt: skip
    if make:
        make(path)
    for read in (read_image, image_size):
        with pytest.raises(BrokenImageError) as caught:
            read(path)
        assert printable(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_is_listed_sorted_with_its_subfolders_and_links(tmp_path):
    root = tmp_path / "root"
    for folder in ("root/b", "root/.cache", "elsewhere/deep"):
        (tmp_path / folder).mkdir(parents=True)
    names = ("z.PNG", "b/a.jpeg", "notes.txt", ".hidden.jpg", ".cache/c.jpg")
    for path in (*(root / name for name in names), tmp_path / "elsewhere/deep/e.jpg"):
        path.write_bytes(b"")
    (root / "a-link").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root / "b")  # each folder counts once, under its own path
    (tmp_path / "elsewhere/deep/loop").symlink_to(root)
    found, others = ["a-link/deep/e.jpg", "b/a.jpeg", "z.PNG"], Counter()
    assert list_images(str(root), others) == [str(root / name) for name in found]
    assert others == {".txt": 1}


def test_programs_are_no_images(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(BrokenImageError, match="x.jpg: PostScript"):
        read_image(str(path))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch, caplog):
    for folder in ("a", "locked"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jpg").write_bytes(b"")
    scan = os.scandir

    def locked(path):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert list_images(str(tmp_path)) == [str(tmp_path / "a" / "x.jpg")]
    assert f"'{tmp_path}/locked', which cannot be listed: Permission denied" in caplog.text


def test_names_that_are_no_utf8_are_read(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Image.fromarray(PHOTO).save(path)
    assert list_images(str(tmp_path)) == [path]
    assert close(read_image(path), PHOTO)
    assert printable(path).encode() == os.fsencode(tmp_path) + b"/caf\\udce9.png"


def test_an_empty_or_missing_folder_is_refused(tmp_path, refuses):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with refuses("missing-data"):
            list_images(str(folder))
