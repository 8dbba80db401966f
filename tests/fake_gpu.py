"""A GPU in name only: its tensors have a device, a type and a shape, but no numbers.

Tensors on the CPU are real, those on "cuda:0" are torch's fake ones. So a step runs as on a machine
with a GPU: tensors on different devices raise what CUDA would raise, and whatever makes the host
wait for the device is noted. Kernels, their numbers, memory and speed remain for a real GPU.
"""

import collections
import contextlib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchvision  # noqa: F401 - registers the operations named below
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

ROOT = Path(__file__).resolve().parent.parent
# It leaves out processes without input, whose number the host has to wait for.
SYNC_BATCH_NORM = Path("torch/nn/modules/_functions.py")
DEVICE = torch.device("cuda:0")

_aten = torch.ops.aten
_nms = torch.ops.torchvision.nms.default
_INDEXING = (
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
)
# SyncBatchNorm's, of which torch has no fake ones.
_KERNELS = {
    _aten.batch_norm_stats.default: lambda rows, *_: (_per_channel(rows),) * 2,
    _aten.batch_norm_gather_stats_with_counts.default: lambda rows, *_: (_per_channel(rows),) * 2,
    _aten.batch_norm_elemt.default: lambda rows, *_: torch.empty_like(rows),
    _aten.batch_norm_backward_reduce.default: lambda _, rows, *__: (_per_channel(rows),) * 4,
    _aten.batch_norm_backward_elemt.default: lambda _, rows, *__: torch.empty_like(rows),
}


class FakeGPU(TorchDispatchMode):
    """Runs what touches "cuda" on fake tensors, and the rest on the CPU as ever.

    Where a result depends on numbers, conditions are true, numbers are 1, and masks choose all.

    Attributes:
        waits: where the host would have waited for the GPU: operation, file and line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._fake = FakeTensorMode()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation."""
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        asked = kwargs.get("device")
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors) and (
            asked is None or torch.device(asked).type == "cpu"
        ):
            if kwargs.get("pin_memory"):
                kwargs["pin_memory"] = False  # Page-locked memory needs a driver.
            return func(*args, **kwargs)
        if func in (_aten._local_scalar_dense.default, _aten.nonzero.default, _nms):
            self._note(func)
            return self._answer(func, args)
        if func is _aten.copy_.default and not isinstance(args[0], FakeTensor):
            if not any(args[2:]):
                self._note(func)
            return args[0].fill_(1)
        return self._on_gpu(func, args, kwargs)

    def _answer(self, func: Any, args: Any) -> Any:
        """Return what the host waited for."""
        if func is _aten._local_scalar_dense.default:
            return torch.ones((), dtype=args[0].dtype).item()
        if func is _nms:
            return self._all_positions(args[1])[:, 0]
        return self._all_positions(args[0])

    def _on_gpu(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func in _INDEXING:
            args = (args[0], self._indices(func, args[1]), *args[2:])
        elif func is _aten.repeat_interleave.Tensor and "output_size" not in kwargs:
            self._note(func)
            kwargs["output_size"] = int(args[0].numbers.sum())
        elif _copies_and_waits(func, args, kwargs):
            self._note(func)
        fakes, options = tree_map_only(Tensor, self._as_fake, (args, kwargs))
        with self._fake:
            result = _KERNELS.get(func, func)(*fakes, **options)
        if func is _aten._to_copy.default and not isinstance(args[0], FakeTensor):
            result.numbers = args[0]  # Its numbers are known.
        return result

    def _as_fake(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        with self._fake:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)

    def _all_positions(self, mask: Tensor) -> Tensor:
        with self._fake:
            return torch.empty(mask.numel(), mask.ndim, dtype=torch.long, device=mask.device)

    def _indices(self, func: Any, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return integers in place of masks; the host waits for those, and copies the CPU's."""
        made: list[Tensor | None] = []
        for index in indices:
            is_mask = index is not None and index.dtype in (torch.bool, torch.uint8)
            if is_mask or (index is not None and index.device.type == "cpu" and index.ndim):
                self._note(func)
            made += self._all_positions(index).unbind(1) if is_mask else [index]
        return made

    def _note(self, func: Any) -> None:
        # The nearest line of this project, or of SyncBatchNorm.
        for frame in reversed(traceback.extract_stack()):
            path = Path(frame.filename)
            if path.parts[-4:] == SYNC_BATCH_NORM.parts:
                path = ROOT / SYNC_BATCH_NORM
            # An environment may lie in the checkout.
            own = path.is_relative_to(ROOT) and "site-packages" not in path.parts
            if own and path != Path(__file__):
                self.waits.append(f"{func} at {path.relative_to(ROOT)}:{frame.lineno}")
                return


def _per_channel(rows: Tensor) -> Tensor:
    return torch.empty(rows.shape[1], device=rows.device)


def _copies_and_waits(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether an operation copies between devices without ``non_blocking``."""
    if func is _aten._to_copy.default:
        source, target = args[0].device, torch.device(kwargs.get("device") or args[0].device)
        return source.type != target.type and not kwargs.get("non_blocking")
    if func is _aten.copy_.default:
        target, source = args[:2]
        return target.device.type != source.device.type and source.ndim > 0 and not any(args[2:])
    return False


@contextlib.contextmanager
def fake_gpu() -> Iterator[FakeGPU]:
    """Return a context in which "cuda:0" is a fake GPU, also for autocast and backward."""
    driver = [] if torch.cuda.is_available() else ["torch.cuda._lazy_init"]
    with contextlib.ExitStack() as stack:
        for name in (*driver, "torch.cuda.Event"):
            stack.enter_context(mock.patch(name))
        for name, value in (
            ("torch.cuda.amp.common.amp_definitely_not_available", False),
            ("torch.cuda.is_bf16_supported", True),
        ):
            stack.enter_context(mock.patch(name, return_value=value))
        stack.enter_context(mock.patch("torch.autograd.backward", backward))
        # Then torch.tensor(…, device="cuda:0") copies what it made in view of the mode.
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        yield stack.enter_context(FakeGPU())


@torch.no_grad()
def backward(root: Tensor, *_: Any, **__: Any) -> None:
    """Backpropagate from a scalar: autograd's engine needs a driver, its formulas do not."""
    users = collections.Counter(
        child for node in _nodes(root.grad_fn) for child, _ in node.next_functions
    )
    given: dict[Any, dict[int, Tensor]] = {root.grad_fn: {0: torch.ones_like(root)}}
    ready = [root.grad_fn]
    while ready:
        node = ready.pop()
        gradients = given.pop(node, {})
        if hasattr(node, "variable"):
            weight, gradient = node.variable, gradients[0]
            weight.grad = gradient if weight.grad is None else weight.grad + gradient
            continue
        run = node if callable(node) else node.apply  # The latter is that of a Function in Python.
        results = run(*(gradients.get(i) for i in range(len(node._input_metadata))))
        results = results if isinstance(results, tuple) else (results,)
        edges = node.next_functions
        # A Function in Python returns None for its arguments that are no tensors, here the last.
        assert all(result is None for result in results[len(edges) :])
        for (child, slot), gradient in zip(edges, results, strict=False):
            if child is not None and gradient is not None:
                gradient = _validated(gradient, child._input_metadata[slot])
                slots = given.setdefault(child, {})
                slots[slot] = slots[slot] + gradient if slot in slots else gradient
            users[child] -= 1
            if child is not None and not users[child]:
                ready.append(child)


def _validated(gradient: Tensor, expected: Any) -> Tensor:
    """Return the gradient in the shape and type of the tensor that it belongs to."""
    if gradient.device != expected.device:
        raise RuntimeError(f"a gradient on {gradient.device} of a tensor on {expected.device}")
    return gradient.sum_to_size(expected.shape).to(expected.dtype)


def _nodes(root: Any) -> set[Any]:
    seen, waiting = {root}, [root]
    while waiting:
        for child, _ in waiting.pop().next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)
    return seen
