"""The names that a benchmark may use, and the configs that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mls_d2.core.errors import UserError, nearest

PRESETS = ("quick", "paper")
RANDOM = "random"

# Task: stem of its config below transfer_configs, and how long the published recipe is.
_DENSE = {
    "coco": ("coco/mask_rcnn_R_50_FPN", "1x"),
    "coco-c4": ("coco/mask_rcnn_R_50_C4", "1x"),
    "voc": ("voc/faster_rcnn_R_50_C4", "24k"),
    "cityscapes-psa": ("cityscapes/psanet_R_50", "40k"),
    "cityscapes-psp": ("cityscapes/pspnet_R_50", "40k"),
}
# How a classification config's name ends; others there are bases.
_PROTOCOLS = ("_finetune", "_linear", "_svm", "_knn")
# Names that stand for several tasks: of these those that the preset has.
_GROUPS = {
    "cityscapes": ("cityscapes-psa", "cityscapes-psp"),
    "cls": tuple(
        f"{data}-finetune"
        for data in (
            "voc2007",
            "cub200",
            "flowers102",
            "cars",
            "aircraft",
            "indoor67",
            "pets",
            "dtd",
        )
    ),
}


@dataclass(frozen=True)
class Catalog:
    """The methods and tasks of a preset, as its config files tell.

    Args:
        root: of the checkout: the folder of ``pretrain/configs`` and ``transfer_configs``.
        preset: ``"quick"`` or ``"paper"``.
    """

    root: Path
    preset: str

    def methods(self) -> dict[str, Path]:
        """Return config by name: ``mls``; of the paper also ``mls-800ep`` and the ablations."""
        folder = self.root / "pretrain" / "configs"
        if self.preset == "quick":
            return {
                path.stem.removesuffix("_quick"): path
                for path in sorted(folder.glob("*_quick.yaml"))
            }
        found = {}
        for path in sorted(folder.glob("*_coco_*ep.yaml")):
            method, _, length = path.stem.partition("_coco_")
            found[method if length == "400ep" else f"{method}-{length}"] = path
        return found | {path.stem: path for path in sorted(folder.glob("ablations/*.yaml"))}

    def tasks(self) -> dict[str, tuple[Path, ...]]:
        """Return configs by name: several where the name stands for a group of tasks."""
        single = self._dense_tasks() | self._classification_tasks()
        groups = {
            name: tuple(single[member] for member in members if member in single)
            for name, members in _GROUPS.items()
        }
        named = {name: (path,) for name, path in single.items()}
        return named | {name: paths for name, paths in groups.items() if paths}

    def find_method(self, name: str) -> Path:
        """Return the pretraining config of ``name``.

        Raises:
            UserError: no such method; names the nearest.
        """
        methods = self.methods()
        if name not in methods:
            raise UserError(
                f"unknown method '{name}' in preset {self.preset}; "
                f"{nearest(name, [RANDOM, *methods])}"
            )
        return methods[name]

    def find_task(self, name: str) -> list[tuple[str, Path]]:
        """Return (task, config) of each task that ``name`` stands for.

        Raises:
            UserError: no such task; names the nearest.
        """
        tasks = self.tasks()
        if name not in tasks:
            raise UserError(
                f"unknown task '{name}' in preset {self.preset}; {nearest(name, tasks)}"
            )
        names = {paths[0]: task for task, paths in tasks.items() if task not in _GROUPS}
        return [(names[path], path) for path in tasks[name]]

    def _dense_tasks(self) -> dict[str, Path]:
        folder = self.root / "transfer_configs"
        paths = {
            name: folder / f"{stem}_{'quick' if self.preset == 'quick' else length}.yaml"
            for name, (stem, length) in _DENSE.items()
        }
        return {name: path for name, path in paths.items() if path.is_file()}

    def _classification_tasks(self) -> dict[str, Path]:
        folder = self.root / "transfer_configs" / "classification"
        quick = self.preset == "quick"
        return {
            path.stem.removesuffix("_quick").replace("_", "-"): path
            for path in sorted(folder.glob("*.yaml"))
            if path.stem.endswith("_quick") == quick
            and path.stem.removesuffix("_quick").endswith(_PROTOCOLS)
        }
