"""What a training step costs, counted without a GPU: operations, traffic and memory.

The step runs on fake tensors, which have shapes but no values. Its time is an estimate: each
operator takes the longer of its arithmetic and its memory traffic at the GPU's peak rates, and the
sum is divided by one utilisation. docs/running.md compares the result with published figures.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

# Of the peak rates below: not measured here, but between what published runs have reached.
UTILISATION = 0.6
# Of TF32's peak rate in convolutions, with which NVIDIA's ResNet-50 on an A100 agrees.
_TF32_SHARE = 0.5
GB = 1e9
_CONVOLUTION = "convolution"


@dataclass(frozen=True)
class Gpu:
    """Peak rates of a GPU from its maker's data sheet, without sparsity."""

    name: str  # as in the table of a plan
    memory: float  # bytes
    bandwidth: float  # bytes/s of its memory
    fp32: float  # FLOP/s in float32
    tf32: float  # FLOP/s in TF32, which PyTorch takes for convolutions in float32; 0 without it
    bf16: float  # FLOP/s in bfloat16; without it in float16, which AMP_DTYPE "auto" then takes
    fp16: float  # FLOP/s in float16

    def rate(self, kind: str, dtype: torch.dtype) -> float:
        """Return the FLOP/s of an operator."""
        full = max(self.fp32, self.tf32 * _TF32_SHARE) if _CONVOLUTION in kind else self.fp32
        return {torch.bfloat16: self.bf16, torch.float16: self.fp16}.get(dtype, full)


GPUS = (
    Gpu("V100", 32 * GB, 900e9, 15.7e12, 0.0, 125e12, 125e12),
    Gpu("A100", 80 * GB, 2039e9, 19.5e12, 156e12, 312e12, 312e12),
    Gpu("H100", 80 * GB, 3350e9, 67e12, 494e12, 989e12, 989e12),
    Gpu("4090", 24 * GB, 1008e9, 82.6e12, 82.6e12, 165e12, 165e12),
)


@dataclass(frozen=True)
class StepCost:
    """One training step of one process."""

    images: int  # of this process
    # (name, dtype, FLOPs, bytes read and written) → how often.
    operators: Counter[tuple[str, torch.dtype, float, float]] = field(repr=False)
    weights: int  # bytes of parameters and buffers
    gradients: int  # bytes, with the copy of DistributedDataParallel if there are several processes
    optimizer: int  # bytes of its state
    activations: int  # bytes at the peak of the step, besides all of these

    @property
    def flops(self) -> float:
        """FLOPs of the convolutions and matrix products (2 per multiplication and addition)."""
        return sum(flops * count for (_, _, flops, _), count in self.operators.items())

    @property
    def tensors(self) -> tuple[int, int, int, int]:
        """Bytes of weights, gradients, optimizer and activations."""
        return self.weights, self.gradients, self.optimizer, self.activations

    @property
    def memory(self) -> int:
        """Bytes, without CUDA's context, workspaces of cuDNN and gaps in PyTorch's cache."""
        return sum(self.tensors)

    def seconds(self, gpu: Gpu, utilisation: float = UTILISATION) -> float:
        """Return the estimated time on a GPU."""
        ideal = sum(
            count * max(flops / gpu.rate(kind, dtype), traffic / gpu.bandwidth)
            for (kind, dtype, flops, traffic), count in self.operators.items()
        )
        return ideal / utilisation


@dataclass(frozen=True)
class RunCost:
    """One run: its steps on a number of GPUs."""

    step: StepCost | None  # of one GPU; None if nothing is trained
    steps: int
    num_gpus: int
    disk: int  # bytes of all files that the run keeps, images of reports left out
    relief: str = ""  # the config keys, with values, that reduce memory
    first: RunCost | None = None  # the run that comes before, whose hours and files count

    def hours(self, gpu: Gpu) -> float:
        """Return the estimated hours of training."""
        earlier = self.first.hours(gpu) if self.first else 0.0
        return earlier + (self.steps * self.step.seconds(gpu) / 3600 if self.step else 0.0)

    def images_per_s(self, gpu: Gpu) -> float:
        """Return the estimated images per second of all GPUs, each of them with all its views."""
        assert self.step is not None
        return self.num_gpus * self.step.images / self.step.seconds(gpu)


def measure_step(
    model: nn.Module,
    step: Callable[[], Tensor],
    *,
    images: int,
    num_gpus: int = 1,
    amp_dtype: torch.dtype | None = None,
) -> StepCost:
    """Run a step of a model on fake tensors and count.

    Args:
        model: on the meta device; it gets fake weights.
        step: computes the loss, with inputs that it makes itself.
        images: of one process.
        num_gpus: processes of the run.
        amp_dtype: of autocast; None for float32.

    Returns:
        The cost, with an optimizer that has one buffer per trained weight: SGD with momentum.
    """
    autocast: AbstractContextManager[Any] = nullcontext()
    if amp_dtype is not None:
        autocast = torch.autocast("cpu", amp_dtype)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        _give_fake_weights(model)
        weights = [*model.parameters(), *model.buffers()]
        meter = Meter(owned=weights)
        with meter:
            with autocast:
                loss = step()
            loss.backward()
    trained = sum(_size(weight) for weight in model.parameters() if weight.grad is not None)
    return StepCost(
        images=images,
        operators=meter.operators,
        weights=sum(map(_size, weights)),
        gradients=trained * (2 if num_gpus > 1 else 1),
        optimizer=trained,
        activations=max(0, meter.peak - trained),
    )


class Meter(TorchDispatchMode):
    """Counts the operators that run in its context, and the bytes of the tensors that they make.

    A shape that depends on values, such as that of a selection by a mask, is taken at its largest.

    Args:
        owned: tensors that exist anyway.

    Attributes:
        operators: see :class:`StepCost`.
        peak: bytes that were in use at once, without those of ``owned``.
    """

    def __init__(self, *, owned: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.operators: Counter[tuple[str, torch.dtype, float, float]] = Counter()
        self.peak = 0
        self._in_use = 0
        self._known = {id(tensor.untyped_storage()) for tensor in owned}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and count it."""
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            return 1
        if name == "nonzero":
            return torch.empty(args[0].numel(), args[0].ndim, dtype=torch.long)
        if "index" in name:
            args = tree_map_only(list, _positions, args, is_leaf=lambda x: isinstance(x, list))
        out = func(*args, **kwargs)
        if func.namespace != "aten" or _is_view(func):
            return out
        made = [*_tensors(out)]
        for tensor in made:
            self._notice(tensor)
        if "empty" not in name:
            tensors = [*_tensors((args, kwargs)), *made]
            count = flop_registry.get(func.overloadpacket)
            flops = count(*args, **kwargs, out_val=out) if count else 0
            dtype = tensors[0].dtype if tensors else torch.float32
            self.operators[name, dtype, float(flops), float(sum(map(_size, tensors)))] += 1
        return out

    def _notice(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) not in self._known:
            self._known.add(id(storage))
            self._in_use += storage.nbytes()
            self.peak = max(self.peak, self._in_use)
            weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self._in_use -= size


def _positions(indices: list[Any]) -> list[Any]:
    """Return an indexing with its masks replaced by the positions of all their elements."""
    found: list[Any] = []
    for index in indices:
        if isinstance(index, Tensor) and index.dtype is torch.bool:
            found += [torch.empty(index.numel(), dtype=torch.long) for _ in index.shape]
        else:
            found.append(index)
    return found


def _is_view(func: Any) -> bool:
    infos = [item.alias_info for item in func._schema.returns]
    return any(info is not None and not info.is_write for info in infos)


def _give_fake_weights(model: nn.Module) -> None:
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = torch.empty_like(weight, device="cpu")
                module._parameters[name] = nn.Parameter(fake, weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))


def _size(tensor: Tensor) -> int:
    """Return the bytes of a tensor's values; those of an expanded one are there once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
