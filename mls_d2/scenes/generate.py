"""Making a root of scenes, resumable, images in parallel."""

import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mls_d2.core.files import check_writable
from mls_d2.core.workers import worker_map
from mls_d2.scenes.compose import compose
from mls_d2.scenes.layouts import Split, all_splits
from mls_d2.scenes.marker import SceneParams, merge_with_marker, write_marker
from mls_d2.scenes.render import Picture, render

logger = logging.getLogger(__name__)

_ADVICE = (
    "out of memory, or it could not start because the script that calls generate() does so outside "
    "of `if __name__ == '__main__':`; try num_workers=1"
)


def picture_of(seed: int, split: Split, index: int) -> Picture:
    """Render an image; it depends on the seed, the split's stream and size, and the index."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, split.stream, index)))
    return render(compose(rng, split.size, split.scene), full_masks=split.full_masks)


def generate(root: str | Path, *, num_workers: int | None = None, **parameters: Any) -> None:
    """Write scenes under a root, in the layouts of COCO, VOC and Cityscapes.

    With ``DETECTRON2_DATASETS`` set to the root, Detectron2's builtin dataset names load them. The
    bytes depend on the parameters only. After an interruption, the next call resumes at the first
    incomplete split; on a complete root it returns at once.

    Args:
        root: folder to write, created if missing.
        num_workers: processes; 0 or 1 stays in this one, None takes one per core.
        **parameters: the fields of :class:`SceneParams`.

    Raises:
        UserError: bad parameters; or a root that is foreign, of other parameters, or unwritable.
    """
    root = Path(root)
    params, finished = merge_with_marker(root, SceneParams(**parameters))
    missing = [split for split in all_splits(params) if split.name not in finished]
    if not missing:
        logger.info("%s is complete already: %s", root, ", ".join(finished) or "no images")
        return
    workers = (os.cpu_count() or 1) if num_workers is None else num_workers
    save, processes = partial(_save, root, params.seed), workers if workers > 1 else 0
    pause = 0.1 if sys.stderr.isatty() else 10.0  # In a log file, each update is a line.
    with worker_map(save, processes, advice=_ADVICE) as run:
        check_writable(str(root))
        write_marker(root, params, finished, complete=False)
        for split in missing:
            for folder in split.folders:
                check_writable(str(root / folder))
            saved = run((split, index) for index in range(split.count))
            records = list(tqdm(saved, split.name, split.count, unit="img", mininterval=pause))
            if split.finish is not None:
                split.finish(root, records)
            finished.append(split.name)
            write_marker(root, params, finished, complete=split is missing[-1])
    logger.info("wrote %s to %s", ", ".join(split.name for split in missing), root)


def _save(root: Path, seed: int, item: tuple[Split, int]) -> dict:
    split, index = item
    return split.save(root, index, picture_of(seed, split, index))
