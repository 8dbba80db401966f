#!/usr/bin/env python3
"""Images per second that one core loads, two views each: this project, torchvision and others.

All rows take turns over the same JPEGs. Time is that of this process on the CPU. Rows of lightly
and kornia are left out if they are not installed.

Example:
    python benchmarks/loader.py datasets/coco/train2017
"""

import io
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter
from timing import parse, take_turns
from torchvision import transforms

from mls_d2.config.defaults import get_cfg
from mls_d2.core.errors import run_tool
from mls_d2.data.images import list_images, open_image
from pretrain.packing import Packing, pack
from pretrain.sources import FileSource, ImageSource, ShardSource
from pretrain.views import Crops, ViewGroup, augment_from_config

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
SCALE = (0.2, 1.0)

Load = Callable[[], object]


def main() -> None:
    """Time all rows in turn and print images per second and ratios."""
    args = parse(__doc__, "folder", size=224, images=64, rounds=7, short_side=256)
    torch.set_num_threads(1)
    files = FileSource(list_images(args.folder)[: args.images])
    data = [files.read(position) for position in range(len(files.paths))]
    with tempfile.TemporaryDirectory() as folder:
        pack(files, folder, Packing(short_side=args.short_side))
        shards = ShardSource(folder)
        cut, whole = make_rows(data, shards, args.size, args.short_side)
        pixels = sum(image.height * image.width for image in map(open_image, data)) / len(data)
        sizes = [statistics.mean(map(len, read_all(source))) / 1000 for source in (files, shards)]
        print(
            f"{len(data)} JPEGs of {sizes[0]:.0f} kB and {pixels / 1e6:.2f} megapixels on average "
            f"({sizes[1]:.0f} kB in shards), views of {args.size}²"
        )
        show("decoding and two crops", cut, "Pillow", len(data), args.rounds)
        show(
            "whole path, to normalised floats", whole, "Pillow, torchvision", len(data), args.rounds
        )
    photometric = make_photometric_rows(args.size)
    show("photometric part alone, views per second", photometric, "torchvision, one by one", 64, 3)


def make_rows(
    data: list[bytes], shards: ImageSource, size: int, short_side: int
) -> tuple[dict[str, Load], dict[str, Load]]:
    """Return functions that decode and crop all images, and that also augment them."""
    shared = [transforms.RandomResizedCrop(size, scale=SCALE), transforms.RandomHorizontalFlip()]
    crop = transforms.Compose(shared)
    mocov2 = transforms.Compose([*shared, *torchvision_photometric(), *to_floats()])
    packed = read_all(shards)
    cut: dict[str, Load] = {
        "Pillow": lambda: [pillow(item, crop) for item in data],
        "full": lambda: ours(data, size),
        "reduced": lambda: ours(data, size, reduced=True),
        f"shards, short side {short_side}": lambda: ours(packed, size),
    }
    whole: dict[str, Load] = {
        "Pillow, torchvision": lambda: [pillow(item, mocov2) for item in data],
        "full": lambda: photometric(ours(data, size)),
        f"shards, short side {short_side}": lambda: photometric(ours(packed, size)),
    }
    try:
        from lightly.transforms import MoCoV2Transform
    except ImportError as error:
        print(f"without lightly: {error}")
    else:
        transform = MoCoV2Transform(input_size=size)
        whole["lightly"] = lambda: [transform(open_pillow(item)) for item in data]
    return cut, whole


def make_photometric_rows(size: int) -> dict[str, Load]:
    """Return functions that augment 64 views: one by one, or in a batch here or with kornia."""
    views = torch.randint(0, 256, (2, 32, size, size, 3), dtype=torch.uint8)
    floats = views.flatten(0, 1).permute(0, 3, 1, 2).contiguous().float() / 255
    single = transforms.Compose(torchvision_photometric())
    pictures = [Image.fromarray(view.numpy()) for view in views.flatten(0, 1)]
    rows: dict[str, Load] = {
        "torchvision, one by one": lambda: [single(picture) for picture in pictures],
        "here": lambda: photometric(views),
    }
    try:
        from kornia import augmentation
    except ImportError as error:
        print(f"without kornia: {error}")
    else:
        batched = augmentation.AugmentationSequential(
            augmentation.ColorJiggle(0.4, 0.4, 0.4, 0.1, p=0.8),
            augmentation.RandomGrayscale(p=0.2),
            augmentation.RandomGaussianBlur((13, 13), (0.1, 2.0), p=0.5),
            augmentation.Normalize(torch.tensor(MEAN) / 255, torch.tensor(STD) / 255),
        )
        rows["kornia"] = lambda: batched(floats)
    return rows


def ours(data: Sequence[bytes], size: int, *, reduced: bool = False) -> torch.Tensor:
    """Return the views ``(2, N, S, S, 3)`` uint8 of encoded images."""
    crops = Crops([ViewGroup(2, size, SCALE)], 0.5, reduced=reduced)
    rng = np.random.default_rng(0)
    views = [crops(open_image(item), rng)[0][0] for item in data]
    return torch.from_numpy(np.stack(views, axis=1))


def photometric(views: torch.Tensor) -> object:
    """Augment views as the trainer does, on the CPU."""
    cfg = get_cfg()
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.SEED = MEAN, STD, 0
    return augment_from_config(cfg, torch.device("cpu"))([views], 0)


def blur(picture: Image.Image) -> Image.Image:
    """Blur with a random deviation, as in MoCo-v2."""
    return picture.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def torchvision_photometric() -> list[Callable]:
    """Return the photometric part of MoCo-v2 as torchvision's users write it."""
    return [
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([blur], p=0.5),
    ]


def to_floats() -> list[Callable]:
    """Return conversion and normalisation."""
    scaled = [[value / 255 for value in values] for values in (MEAN, STD)]
    return [transforms.ToTensor(), transforms.Normalize(*scaled)]


def pillow(data: bytes, transform: Callable) -> list:
    """Return two views that a transform makes of an encoded image."""
    picture = open_pillow(data)
    return [transform(picture) for _ in range(2)]


def open_pillow(data: bytes) -> Image.Image:
    """Decode with Pillow."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def read_all(source: ImageSource) -> list[bytes]:
    """Return all files of a source."""
    return [source.read(position) for position in range(int(source.counts.sum()))]


def show(title: str, rows: dict[str, Load], base: str, items: int, rounds: int) -> None:
    """Time rows in turn; print items per second and the ratio to a base row, as medians."""
    times = take_turns(rows, rounds=rounds, clock=time.process_time)
    print(title)
    for name in rows:
        rate, ratio = items / times.median(name), times.ratio(base, name)[1]
        print(f"  {name:28s} {rate:8.0f} /s   {ratio:6.2f} × {base}")


if __name__ == "__main__":
    run_tool(main)
