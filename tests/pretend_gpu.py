"""A fake GPU with numbers, which the CPU computes: numeric tests run on it as on a real one."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
)
from torch.utils._pytree import tree_iter, tree_map, tree_map_only

from tests import fake_gpu
from tests.fake_gpu import DEVICE, FakeGPU


class PretendGPU(FakeGPU):
    """Keeps beside every fake tensor, as ``numbers``, a real one on the CPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation, first for its devices, then for its numbers."""
        kwargs = kwargs or {}
        try:
            result = super().__torch_dispatch__(func, types, args, kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            result = None
        tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        asked = kwargs.get("device")
        on_gpu = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if func is torch.ops.prim.device.default or not (
            on_gpu or (asked is not None and torch.device(asked).type != "cpu")
        ):
            return result
        generator = kwargs.get("generator")
        if generator is not None and generator.device != DEVICE:
            raise RuntimeError(f"Expected a 'cuda' device type for generator, found {generator}")
        plain, options = tree_map_only(FakeTensor, lambda x: x.numbers, (args, kwargs))
        options = {k: v if k != "device" else torch.device("cpu") for k, v in options.items()}
        real = func(*plain, **options)
        to_cpu = asked is not None and torch.device(asked).type == "cpu"
        if to_cpu or not any(isinstance(x, Tensor) for x in tree_iter(real)):
            return real
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], FakeTensor):
            return args[0]
        if result is None:
            return tree_map(self._numbered, real)
        return tree_map(self._numbered, real, result)

    def _numbered(self, real: Any, fake: Any = None) -> Any:
        if not isinstance(real, Tensor):
            return real
        if not isinstance(fake, FakeTensor) or fake.shape != real.shape:
            with self._fake:
                fake = torch.empty_strided(
                    real.shape, real.stride(), dtype=real.dtype, device=DEVICE
                )
        fake.numbers = real
        return fake


@contextlib.contextmanager
def pretend_gpu() -> Iterator[None]:
    """Return a context in which "cuda:0" is a fake GPU with numbers."""
    with (
        mock.patch.object(fake_gpu, "FakeGPU", PretendGPU),
        mock.patch.object(nn.Module, "_apply", _moved),
        mock.patch.object(FakeTensor, "__deepcopy__", _copied, create=True),
        torch.backends.cudnn.flags(enabled=False),  # The CPU has no numbers of its kernels.
        fake_gpu.fake_gpu(),
    ):
        yield


def _moved(module: nn.Module, function: Any, recurse: bool = True) -> nn.Module:
    """Give a module other tensors; torch would exchange the contents, which fake ones refuse."""
    for child in module.children():
        child._apply(function)
    for name, weight in module._parameters.items():
        if weight is not None:
            with torch.no_grad():
                made = function(weight)
            module._parameters[name] = nn.Parameter(made, weight.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else function(buffer)
    return module


def _copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(tensor) not in memo:
        made = tensor.detach().clone()
        is_weight = isinstance(tensor, nn.Parameter)
        made = nn.Parameter(made) if is_weight else made
        memo[id(tensor)] = made.requires_grad_(tensor.requires_grad)
    return memo[id(tensor)]
