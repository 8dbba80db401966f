"""The marker file of a root of scenes: its parameters, and which parts are complete."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from mls_d2.core.errors import UserError
from mls_d2.core.files import is_empty, write_json

MARKER_NAME = "scenes.json"
# Raise it when the files or the pictures of a seed change, so that roots are not mixed.
FORMAT = 4
COUNTS = ("train", "val", "unlabeled", "voc", "cityscapes")


@dataclass(frozen=True, slots=True)
class SceneParams:
    """What a root of scenes contains; values out of range raise a :class:`UserError`."""

    seed: int = 0  # all scenes follow from it
    train: int = 400  # images in COCO train2017
    val: int = 300  # images in COCO val2017
    unlabeled: int = 4000  # images in COCO unlabeled2017
    voc: int = 0  # images in each of VOC2007 trainval, VOC2007 test and VOC2012 trainval
    cityscapes: int = 0  # images in Cityscapes train, twice as wide as high; val has a fifth
    size: tuple[int, int] = (128, 128)  # (width, height) of an image in pixels

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        rules = [(name, getattr(self, name) >= 0, "0 or more") for name in ("seed", *COUNTS)]
        rules += [("voc", self.voc not in (1, 2, 3), "0, or 4 or more to fill train and val")]
        fits = len(self.size) == 2 and all(32 <= side <= 4096 for side in self.size)
        rules += [("size", fits, "width and height of 32 to 4096 pixels")]
        for name, holds, expected in rules:
            if not holds:
                message = f"{name} is {getattr(self, name)}, expected {expected}"
                raise UserError(message, code="bad-value")


def read_marker(root: str | os.PathLike[str]) -> dict | None:
    """Return the marker of a datasets' root: :class:`SceneParams`, finished parts, and "complete".

    None without a marker: the data is then not known to be synthetic.

    Raises:
        UserError: there is a marker, but it cannot be read or is of another format.
    """
    path, remedy = Path(root) / MARKER_NAME, f"delete {root} and make the scenes again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, RecursionError, ValueError) as error:
        message = f"{path} cannot be read ({error}); {remedy}"
        raise UserError(message, code="damaged-file") from error
    keys = {"format", "synthetic", "finished", "complete", *SceneParams.__dataclass_fields__}
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT or not content.keys() >= keys:
        message = f"{path} has format {found!r}, expected {FORMAT}: another version made it"
        raise UserError(f"{message}; {remedy}", code="other-version")
    return content


def write_marker(root: Path, params: SceneParams, finished: list[str], *, complete: bool) -> None:
    """Write a root's marker: its parameters and which parts are finished."""
    content = {"format": FORMAT, "synthetic": True, **asdict(params)}
    write_json(str(root / MARKER_NAME), {**content, "finished": finished, "complete": complete})


def merge_with_marker(root: Path, params: SceneParams) -> tuple[SceneParams, list[str]]:
    """Return the parameters of the complete root, and the parts that are already finished.

    A part requested with 0 images is left as it is; one that the root does not have yet is added.
    Foreign content and scenes of other parameters raise a :class:`UserError`.
    """
    marker = read_marker(root)
    if marker is None:
        if not is_empty(root):
            message = f"{root} is not empty and has no {MARKER_NAME}, so it has no generated scenes"
            raise UserError(f"{message}; choose a new or an empty folder", code="foreign-folder")
        return params, []
    merged, differing = asdict(params), []
    for name, wanted in asdict(params).items():
        found = tuple(marker[name]) if name == "size" else marker[name]
        if name in COUNTS and 0 in (wanted, found):
            merged[name] = wanted or found
        elif wanted != found:
            differing.append(f"{name} is {found} there, {wanted} wanted")
    if differing:
        message = f"{root} has scenes with other parameters ({'; '.join(differing)})"
        remedy = "ask for the same ones, choose another root, or delete this one"
        raise UserError(f"{message}; {remedy}", code="other-parameters")
    return SceneParams(**merged), list(marker["finished"])
