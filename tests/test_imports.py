"""Imports run one way: from tools through pretraining and the rooms of mls_d2 down to core."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# From the top down; rooms of one floor do not import each other.
FLOORS = (
    ("tools", "benchmarks"),
    ("pretrain", "mls_d2.transfer", "mls_d2.runner"),
    ("mls_d2.run", "mls_d2.convert", "mls_d2.evaluation", "mls_d2.hub"),
    ("mls_d2.checkpoint", "mls_d2.data", "mls_d2.report"),
    ("mls_d2.config", "mls_d2.modeling", "mls_d2.results", "mls_d2.scenes"),
    ("mls_d2.core",),
)
HEIGHT = {room: height for height, rooms in enumerate(reversed(FLOORS)) for room in rooms}


def room_of(module: str) -> str | None:
    """Return the room that a module of this project lies in; None for the package itself."""
    return next((r for r in HEIGHT if module == r or module.startswith(f"{r}.")), None)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def arrows() -> Iterator[tuple[str, str, str]]:
    """Yield (file, its room, imported room) for every import of one room by another."""
    for path in sorted(REPOSITORY.glob("*/**/*.py")):
        name = path.relative_to(REPOSITORY)
        origin = room_of(".".join(name.with_suffix("").parts))
        for module in imports(path) if origin else ():
            target = room_of(module)
            if target and target != origin:
                yield str(name), origin or "", target


def test_no_import_runs_upward_or_sideways():
    wrong = [
        f"{name} ({origin}) imports {target}"
        for name, origin, target in arrows()
        if HEIGHT[target] >= HEIGHT[origin]
    ]
    assert wrong == []


def test_every_package_has_a_floor():
    packages = {f"mls_d2.{path.parent.name}" for path in REPOSITORY.glob("mls_d2/*/__init__.py")}
    assert packages == {room for room in HEIGHT if room.startswith("mls_d2.")}


@pytest.mark.parametrize("room", ["core", "results", "scenes"])
def test_low_rooms_need_neither_torch_nor_detectron2(room):
    heavy = {"torch", "torchvision", "detectron2", "fvcore"}
    for path in (REPOSITORY / "mls_d2" / room).glob("**/*.py"):
        assert not {module.partition(".")[0] for module in imports(path)} & heavy, path
