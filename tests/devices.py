"""Numeric tests on every device that is there, without a word about devices in the tests."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from tests.pretend_gpu import pretend_gpu

TESTS = str(Path(__file__).resolve().parent)
# Draws its parameters on the CPU, wherever the images are.
VIEWS = str(Path(TESTS).parent / "pretrain" / "views")
# Without a GPU it also collects the tests for one, on tests/pretend_gpu.py: slow, for developers.
PRETEND = "MLS_D2_PRETEND_GPU"
DEVICES = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append("cuda")
elif os.environ.get(PRETEND):
    DEVICES.append("pretend")


class OnDevice(TorchFunctionMode):
    """Makes new tensors on a device, as ``with torch.device(…)`` does.

    What a test draws from a generator of the CPU is drawn there and moved: the numbers are those of
    the CPU. Draws of the tested code stay where it makes them.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call one function of torch."""
        kwargs, caller = dict(kwargs or {}), sys._getframe(1).f_code.co_filename
        stays = kwargs.get("device") is not None or caller.startswith(VIEWS)
        if func not in _device_constructors() or stays:
            return func(*args, **kwargs)
        needs_gradient = bool(kwargs.pop("requires_grad", False))
        if kwargs.get("generator") is None:
            made = func(*args, **kwargs | {"device": self.device})
        else:
            made = func(*args, **kwargs)
            if caller.startswith(TESTS):
                made = made.to(self.device)
        return made.requires_grad_() if needs_gradient else made


@contextlib.contextmanager
def on(name: str) -> Iterator[None]:
    """Return a context whose tensors are made on one of :data:`DEVICES`, of GPUs the current."""
    with contextlib.ExitStack() as stack:
        if name == "pretend":
            stack.enter_context(pretend_gpu())
        if name != "cpu":
            index = torch.cuda.current_device() if name == "cuda" else 0
            stack.enter_context(OnDevice(torch.device("cuda", index)))
        yield
