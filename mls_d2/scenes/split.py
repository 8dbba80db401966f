"""One split of a dataset as the generator sees it: how many images of what, written how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mls_d2.scenes.render import Picture


@dataclass(frozen=True, slots=True)
class Split:
    """A split of a dataset.

    Args:
        name: its name in the marker and in the progress bar.
        stream: number of its random stream; splits with different numbers share no scene.
        count: number of images.
        size: (width, height) of an image in pixels.
        folders: folders that its files go to, relative to the root.
        save: ``save(root, split, index, picture)`` writes one image with the files of its own and
            returns what ``finish`` needs of it. Called in any order, in any process.
        finish: ``finish(root, split, records)`` writes the files that list all images; the records
            are in the order of the images.
        kind: the kind of all its scenes, or None for all kinds.
        full_masks: whether ``save`` needs the masks without occlusion.
    """

    name: str
    stream: int
    count: int
    size: tuple[int, int]
    folders: tuple[str, ...]
    save: Callable[[Path, Split, int, Picture], dict]
    finish: Callable[[Path, Split, list[dict]], None]
    kind: str | None = None
    full_masks: bool = False
