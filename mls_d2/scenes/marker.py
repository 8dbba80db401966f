"""The marker file of a root of scenes: what is in it, and whether it is whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from mls_d2.core.errors import UserError
from mls_d2.scenes.files import write_bytes

MARKER_NAME = "scenes.json"
# Raise it when the files or the pictures of a seed change, so that roots are not mixed.
FORMAT = 3

COUNTS = ("train", "val", "unlabeled", "voc", "cityscapes")


@dataclass(frozen=True, slots=True)
class SceneParams:
    """What a root of scenes contains.

    Args:
        seed: all scenes follow from it.
        train: images in COCO train2017.
        val: images in COCO val2017.
        unlabeled: images in COCO unlabeled2017.
        voc: images in each of VOC2007 trainval, VOC2007 test and VOC2012 trainval.
        cityscapes: images in Cityscapes train; val has a fifth as many, at least one.
        size: (width, height) of an image in pixels; Cityscapes' images are twice as wide as high,
            of this height.

    Raises:
        UserError: a count or the seed is negative, ``voc`` is 1 to 3, or the size out of 32 to
        4096.
    """

    seed: int = 0
    train: int = 400
    val: int = 300
    unlabeled: int = 4000
    voc: int = 0
    cityscapes: int = 0
    size: tuple[int, int] = (128, 128)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        for name in ("seed", *COUNTS):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if 0 < self.voc < 4:
            raise UserError(f"voc is {self.voc}, expected 0, or 4 or more to fill train and val")
        if len(self.size) != 2 or not all(32 <= side <= 4096 for side in self.size):
            raise UserError(f"size is {self.size}, expected width and height of 32 to 4096 pixels")


_KEYS = {"format", "synthetic", "finished", "complete", *SceneParams.__dataclass_fields__}


def read_marker(root: str | os.PathLike[str]) -> dict | None:
    """Read a root's marker.

    Args:
        root: the datasets' root.

    Returns:
        ``{"format": …, "synthetic": True, "seed": …, …, "size": [w, h], "finished": [parts],
        "complete": …}``; None where there is none, so that the data is not known to be synthetic.

    Raises:
        UserError: there is a marker, but it cannot be read or is of another format.
    """
    path = Path(root) / MARKER_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); delete {root} and make the scenes again",
            code="damaged-file",
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT or not content.keys() >= _KEYS:
        raise UserError(
            f"{path} is not a marker of format {FORMAT} (its format is {found!r}); "
            f"delete {root} and make the scenes again",
            code="damaged-file",
        )
    return content


def write_marker(root: Path, params: SceneParams, finished: list[str], *, complete: bool) -> None:
    """Write a root's marker: its parameters and which parts are finished."""
    content = {
        "format": FORMAT,
        "synthetic": True,
        **asdict(params),
        "finished": finished,
        "complete": complete,
    }
    write_bytes(root / MARKER_NAME, (json.dumps(content, indent=2) + "\n").encode())


def merge_with_marker(root: Path, params: SceneParams) -> tuple[SceneParams, list[str]]:
    """Check that a root may be written with these parameters.

    A part that is asked for with 0 images is left as it is; one that the root does not have yet is
    added.

    Returns:
        The parameters of the root when it will be complete, and the parts that are finished
        already.

    Raises:
        UserError: the root has foreign content, or scenes of other parameters.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file, expected a folder; choose another root")
    marker = read_marker(root)
    if marker is None:
        if root.is_dir() and any(root.iterdir()):
            raise UserError(
                f"{root} is not empty and has no {MARKER_NAME}, so it was not made by this "
                "generator; choose a new or an empty folder"
            )
        return params, []
    merged, differing = asdict(params), []
    for name, wanted in asdict(params).items():
        found = tuple(marker[name]) if name == "size" else marker[name]
        if name in COUNTS and 0 in (wanted, found):
            merged[name] = wanted or found
        elif wanted != found:
            differing.append(f"{name} is {found} there, {wanted} wanted")
    if differing:
        raise UserError(
            f"{root} has scenes with other parameters ({'; '.join(differing)}); ask for the "
            "same ones, choose another root, or delete this one"
        )
    return SceneParams(**merged), list(marker["finished"])
