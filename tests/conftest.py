"""What every test shares: fixed seeds, few threads, and the pictures to work on."""

import inspect
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

import pretrain.methods  # noqa: F401 - the config then has the options of all methods
from tests.devices import DEVICES, on

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_COCO = "MLS_D2_REAL_COCO"
# They run on every device that is there. Tests of two processes choose their own.
NUMERIC = (
    "tests/pretrain/methods/",
    "tests/pretrain/views/test_augment.py",
    "tests/pretrain/views/test_photometric.py",
    "tests/pretrain/test_batchnorm.py",
    "tests/pretrain/test_dictionary.py",
    "tests/pretrain/test_encoder.py",
    "tests/pretrain/test_geometry.py",
    "tests/pretrain/test_heads.py",
    "tests/pretrain/test_losses.py",
    "tests/pretrain/test_losses_dense.py",
    "tests/pretrain/test_optim.py",
    "tests/mls_d2/evaluation/test_coco_evaluator.py",
    "tests/mls_d2/evaluation/test_segmentation_evaluator.py",
    "tests/mls_d2/evaluation/test_voc_evaluator.py",
    "tests/mls_d2/modeling/",
)


def few(values: Iterable[Any], *fast: Any) -> list[Any]:
    """Return parameters of which all but some are left to ``make test-all``."""
    return [
        value if value in fast else pytest.param(value, marks=pytest.mark.full) for value in values
    ]


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    # Tests compute on tiny tensors, where more threads only wait for one another.
    torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """Remove the datasets that a test registers."""
    before = [(catalog, set(catalog)) for catalog in (DatasetCatalog, MetadataCatalog)]
    yield
    for catalog, names in before:
        for name in set(catalog) - names:
            catalog.remove(name)


@pytest.fixture
def refuses() -> Callable[..., Any]:
    """Return a context that expects a UserError: ``with refuses("unknown-key", *words): …``.

    It has that code, and its message contains the words.
    """
    from mls_d2.core.errors import UserError

    def expected(error: UserError, code: str, words: tuple[object, ...]) -> bool:
        missing = [word for word in words if str(word) not in str(error)]
        assert (error.code, missing) == (code, []), str(error)
        return True

    return lambda code, *words: pytest.raises(
        UserError, check=lambda error: expected(error, code, words)
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    path = metafunc.definition.path.relative_to(REPOSITORY).as_posix()
    if len(DEVICES) > 1 and path.startswith(NUMERIC) and "test_two_processes" not in path:
        # The pretend GPU has no engine of autograd, only backward().
        engine = "autograd" in inspect.getsource(metafunc.function)
        devices = [name for name in DEVICES if not (engine and name == "pretend")]
        metafunc.parametrize("_device", devices, indirect=True)


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the test, and the fixtures after this one, make their tensors on a device.

    The tensors among the constants of the test's module are moved there.
    """
    module = request.module
    with on(getattr(request, "param", "cpu")), pytest.MonkeyPatch.context() as patch:
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor):
                patch.setattr(module, name, value.to(torch.zeros(()).device))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and there is none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def real_coco_root() -> Path:
    """Folder that holds ``coco/`` with real pictures: $MLS_D2_REAL_COCO, or beside the checkout."""
    named = os.environ.get(REAL_COCO)
    root = Path(named) if named else REPOSITORY.parent / "shared" / "datasets"
    if named and not root.is_dir():
        pytest.fail(f"{REAL_COCO}={named} is not a folder")
    if not (root / "coco" / "annotations" / "instances_train2017.json").is_file():
        pytest.skip(f"no real COCO pictures: set {REAL_COCO} to a folder that holds coco/")
    return root


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny generated scenes in the layouts of COCO, VOC and Cityscapes; not to be written to."""
    from mls_d2.scenes import generate

    root = tmp_path_factory.mktemp("scenes") / "root"
    sizes = {"train": 16, "val": 8, "unlabeled": 32, "voc": 8, "cityscapes": 4}
    generate(root, seed=0, size=(96, 96), num_workers=0, **sizes)
    return root
