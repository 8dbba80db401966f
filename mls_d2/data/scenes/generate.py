"""Making a root of scenes: parts one after the other, images in parallel, resumable."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mls_d2.data.scenes import coco
from mls_d2.data.scenes.files import make_folder
from mls_d2.data.scenes.layout import compose
from mls_d2.data.scenes.marker import SceneParams, merge_with_marker, write_marker
from mls_d2.data.scenes.render import Picture, render

logger = logging.getLogger(__name__)

_CHUNK = 16


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a root: a split of a dataset.

    Args:
        name: its name in the marker and in the progress bar.
        stream: number of its random stream; parts with different numbers share no scene.
        count: number of images.
        size: (width, height) of an image in pixels.
        kind: the kind of its scenes, or None for all kinds.
        split: what ``save`` and ``finish`` know it as.
        save: writes one image with its own files and returns what ``finish`` needs of it.
        finish: writes the files that list all images.
        folders: folders to make before, relative to the root.
    """

    name: str
    stream: int
    count: int
    size: tuple[int, int]
    kind: str | None
    split: str
    save: Callable[[Path, str, int, Picture], dict]
    finish: Callable[[Path, str, list[dict]], None]
    folders: tuple[str, ...]


def _parts(params: SceneParams) -> list[Part]:
    counts = {"train2017": params.train, "val2017": params.val, "unlabeled2017": params.unlabeled}
    return [
        Part(
            name=f"coco/{split}",
            stream=stream,
            count=count,
            size=params.size,
            kind=None,
            split=split,
            save=coco.save_image,
            finish=coco.write_annotations,
            folders=(f"coco/{split}", "coco/annotations"),
        )
        for stream, (split, count) in enumerate(counts.items())
        if count
    ]


def picture_of(params: SceneParams, part: Part, index: int) -> Picture:
    """Render one image; it depends on the seed, the part's stream and the index, and on nothing else."""
    rng = np.random.default_rng(np.random.SeedSequence((params.seed, part.stream, index)))
    return render(compose(rng, part.size, part.kind))


def generate(
    root: str | os.PathLike[str], params: SceneParams, *, num_workers: int | None = None
) -> None:
    """Write scenes under a root, in the layouts of COCO, VOC and Cityscapes.

    With ``DETECTRON2_DATASETS`` set to the root, Detectron2's builtin dataset names load them. The bytes written
    depend on the parameters only. Interrupted, it goes on with the part it was at when it is called again;
    called again on a complete root, it returns at once.

    Args:
        root: folder to write, made when missing.
        params: what to write.
        num_workers: processes; 1 stays in this process, None takes one for each core.

    Raises:
        UserError: the root has foreign content or scenes of other parameters, or cannot be written.
    """
    root = Path(root)
    whole, finished = merge_with_marker(root, params)
    parts = _parts(whole)
    missing = [part for part in parts if part.name not in finished]
    if not missing and finished:
        logger.info("%s already has these scenes: %s", root, ", ".join(finished))
        return
    make_folder(root)
    write_marker(root, whole, finished, complete=False)
    for part in missing:
        _write_part(root, whole, part, num_workers or os.cpu_count() or 1)
        finished.append(part.name)
        write_marker(root, whole, finished, complete=part is missing[-1])
    logger.info("wrote %s to %s", ", ".join(part.name for part in missing), root)


def _write_part(root: Path, params: SceneParams, part: Part, num_workers: int) -> None:
    for folder in part.folders:
        make_folder(root / folder)
    starts = range(0, part.count, _CHUNK)
    records: list[dict] = []
    with tqdm(total=part.count, desc=part.name, unit="img") as bar:
        for chunk in _run(root, params, part, starts, num_workers):
            records += chunk
            bar.update(len(chunk))
    part.finish(root, part.split, records)


def _run(
    root: Path, params: SceneParams, part: Part, starts: range, num_workers: int
) -> Iterator[list[dict]]:
    """Yield the records of each chunk in order, from worker processes where there is more than one."""
    if num_workers == 1 or len(starts) == 1:
        for start in starts:
            yield _write_chunk(root, params, part, start)
        return
    with ProcessPoolExecutor(num_workers, initializer=_init_worker) as pool:
        futures: list[Future] = [
            pool.submit(_write_chunk, root, params, part, start) for start in starts
        ]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _init_worker() -> None:
    cv2.setNumThreads(0)


def _write_chunk(root: Path, params: SceneParams, part: Part, start: int) -> list[dict]:
    return [
        part.save(root, part.split, index, picture_of(params, part, index))
        for index in range(start, min(start + _CHUNK, part.count))
    ]
