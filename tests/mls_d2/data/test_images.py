"""Every kind of image that the wild holds, as 8-bit RGB."""

import numpy as np
import pytest
from PIL import Image

from mls_d2.core.errors import UserError
from mls_d2.data.images import BrokenImageError, list_images, open_image, read_image


@pytest.fixture
def photo() -> np.ndarray:
    """A smooth picture, so that JPEG keeps it nearly as it is."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=-1).clip(0, 255).astype(np.uint8)


def close(got: np.ndarray, expected: np.ndarray, tolerance: float = 4.0) -> bool:
    return (
        got.shape == expected.shape
        and np.abs(got.astype(int) - expected.astype(int)).mean() < tolerance
    )


@pytest.mark.parametrize(
    ("name", "tolerance"), [("a.jpg", 4.0), ("a.png", 0.01), ("a.bmp", 0.01), ("a.webp", 6.0)]
)
def test_rgb_files_come_back_as_they_are(tmp_path, photo, name, tolerance):
    Image.fromarray(photo).save(tmp_path / name, quality=95)
    assert close(read_image(str(tmp_path / name)), photo, tolerance)


def test_cmyk_jpeg(tmp_path, photo):
    Image.fromarray(photo).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert close(read_image(str(tmp_path / "a.jpg")), photo, 6)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_greyscale_gets_three_equal_channels(tmp_path, photo, suffix):
    grey = Image.fromarray(photo).convert("L")
    grey.save(tmp_path / f"a.{suffix}", quality=95)
    assert close(
        read_image(str(tmp_path / f"a.{suffix}")), np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    )


def test_palette_images_take_their_colours(tmp_path, photo):
    palette = Image.fromarray(photo).quantize(64)
    palette.save(tmp_path / "a.png")
    assert close(read_image(str(tmp_path / "a.png")), np.asarray(palette.convert("RGB")), 0.01)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    expected = np.repeat((values / 257.0).round().astype(np.uint8)[..., None], 3, axis=2)
    assert close(read_image(str(tmp_path / "a.png")), expected, 0.6)


def test_transparent_pixels_show_white(tmp_path, photo):
    alpha = np.zeros((48, 64, 1), np.uint8)
    Image.fromarray(np.concatenate([photo, alpha], axis=2)).save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png")).min() == 255


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, -1), (8, 1)])
def test_exif_rotation_is_applied(tmp_path, photo, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo).save(tmp_path / "a.jpg", quality=95, exif=exif)
    assert close(read_image(str(tmp_path / "a.jpg")), np.rot90(photo, turn))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_header_tells_the_size_before_decoding(tmp_path, photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=exif)
    image = open_image((tmp_path / "a.jpg").read_bytes())
    assert (image.height, image.width) == image.decode().shape[:2]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_reduced_decoding_gives_the_means_of_blocks(tmp_path, photo, factor):
    Image.fromarray(photo).save(tmp_path / "a.jpg", quality=95)
    reduced = open_image((tmp_path / "a.jpg").read_bytes()).decode(factor)
    blocks = photo.reshape(48 // factor, factor, 64 // factor, factor, 3).mean(axis=(1, 3))
    assert close(reduced, blocks)


def test_a_jpeg_that_is_odd_but_whole_is_read(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "a.jpg", quality=95)
    data = (tmp_path / "a.jpg").read_bytes()
    # A stray byte before the end marker, of which libjpeg warns.
    (tmp_path / "a.jpg").write_bytes(data[:-2] + b"\x11" + data[-2:])
    assert close(read_image(str(tmp_path / "a.jpg")), photo)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_files_are_broken_and_named(tmp_path, photo, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BrokenImageError, match=f"whole.{suffix}"):
        read_image(str(path))


def test_text_and_missing_files_are_broken(tmp_path):
    (tmp_path / "a.jpg").write_text("<html>not found</html>")
    with pytest.raises(BrokenImageError, match="a.jpg"):
        read_image(str(tmp_path / "a.jpg"))
    with pytest.raises(BrokenImageError, match="No such file"):
        read_image(str(tmp_path / "b.jpg"))


def test_a_folder_is_listed_sorted_with_its_subfolders(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".cache").mkdir()
    for name in ("z.PNG", "b/a.jpeg", "notes.txt", ".hidden.jpg", ".cache/c.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert list_images(str(tmp_path)) == [str(tmp_path / "b/a.jpeg"), str(tmp_path / "z.PNG")]


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no images in"):
        list_images(str(tmp_path))
    with pytest.raises(UserError, match="no image folder"):
        list_images(str(tmp_path / "nowhere"))
