"""The backbone file, which pretraining writes and transfer loads.

``{"model": {unprefixed float32 tensors}, "__author__": …, "matching_heuristics": True, "pretrain":
{plain metadata}}``; Detectron2 loads it into every model with that ResNet.
"""

import contextlib
import dataclasses
import json
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from mls_d2.checkpoint.download import fetch
from mls_d2.checkpoint.reading import check_exists, read_object
from mls_d2.core.errors import UserError
from mls_d2.core.files import atomic_write, sha256_of

AUTHOR = "mls_d2"
# The backbone without a prefix, so that it fits every model; other parts with their full names.
_KEY = re.compile(r"((stem|res[2-5])|backbone\.fpn_(lateral|output)[2-5]|roi_heads\.box_head)\.")


@dataclasses.dataclass(frozen=True)
class BackboneFile:
    """The content of a weights file."""

    state_dict: dict[str, Tensor]  # on the CPU, by name as stored
    info: dict[str, Any]  # the pretraining metadata, see pretraining_info
    other_keys: tuple[str, ...] = ()  # entries beside the tensors, for example "trainer"


def write_backbone(path: str, state_dict: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write a backbone file; it appears complete or not at all.

    Args:
        path: ``.pkl`` stores NumPy arrays in a pickle, ``.safetensors`` the metadata as JSON, for
            this project alone, any other suffix (``.pth``) torch tensors.
        state_dict: of Detectron2's ResNet, without a prefix (``stem.conv1.weight``, …), and of an
            FPN or a box head with full names (``backbone.fpn_lateral3.…``,
            ``roi_heads.box_head.…``). Stored as float32, without ``num_batches_tracked``.
        info: plain metadata: method, dataset, epochs, iterations, config, versions, pixel_mean,
            pixel_std, input_format, seed, synthetic.

    Raises:
        ValueError: another name, a value that is not finite, or metadata that is not plain.
        UserError: the folder is full or unwritable.
    """
    tensors = {
        name: _stored(name, value)
        for name, value in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    if not tensors:
        raise ValueError("no tensors to write")
    _check_plain(info, "info")
    content: dict[str, Any] = {
        "model": tensors,
        "__author__": AUTHOR,
        "matching_heuristics": True,
        "pretrain": dict(info),
    }
    with atomic_write(path) as file:
        if path.endswith(".pkl"):
            content["model"] = {name: value.numpy() for name, value in tensors.items()}
            # Protocol 5 would name functions that NumPy 1 does not have.
            pickle.dump(content, file, protocol=4)
        elif path.endswith(".safetensors"):
            # One entry, because the library writes several in any order.
            file.write(safetensors.torch.save(tensors, {"pretrain": json.dumps(dict(info))}))
        else:
            torch.save(content, file)


def read_backbone(path: str) -> BackboneFile:
    """Read a weights file, with tensors by name at its top or under ``"model"``; no code is run.

    Args:
        path: of the file, or what else :func:`mls_d2.checkpoint.download.fetch` finds.

    Raises:
        UserError: it cannot be found or read, see :func:`~mls_d2.checkpoint.download.fetch` and
            :func:`read_object`, or does not hold tensors by name.
    """
    content = read_object(fetch(path))
    model = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(model, dict):
        place = "" if model is content else " under 'model'"
        raise UserError(
            f"'{path}' holds a {type(model).__name__}{place}, expected tensors by name",
            code="not-a-checkpoint",
        )
    tensors = {str(name): as_tensor(value) for name, value in model.items()}
    if not tensors or None in tensors.values():
        found = ", ".join(map(str, list(model)[:5])) or "nothing"
        raise UserError(
            f"'{path}' does not hold tensors by name (found {found}); "
            "convert it with tools/convert.py",
            code="not-a-checkpoint",
        )
    return BackboneFile(
        state_dict={name: value for name, value in tensors.items() if value is not None},
        info=pretraining_info(content),
        other_keys=tuple(map(str, content)) if model is not content else (),
    )


def pretraining_info(content: Any) -> dict[str, Any]:
    """Return the pretraining metadata of a file's content; empty if it has none.

    A backbone file has it under ``"pretrain"``; checkpoints of pretraining and transfer runs under
    ``"metadata"``, from where the epochs of an unfinished pretraining run are corrected, with
    ``planned_iterations`` beside them. Metadata with other than plain values are ignored.
    """
    if not isinstance(content, Mapping):
        return {}
    metadata = content.get("metadata")
    holder = metadata if "pretrain" not in content and isinstance(metadata, dict) else content
    info = holder.get("pretrain")
    info = dict(info) if isinstance(info, dict) and is_plain(info) else {}
    if str(holder.get("kind")).startswith("pretraining"):
        if isinstance(holder.get("method"), str):
            info = {"method": holder["method"]} | info
        done, planned = content.get("iteration"), info.get("iterations")
        if isinstance(done, int) and isinstance(planned, int) and done + 1 < planned:
            info |= {"iterations": done + 1, "planned_iterations": planned}
            epochs, before = info.get("epochs"), holder.get("epochs_before", 0.0)
            if isinstance(epochs, int | float) and isinstance(before, int | float):
                info["epochs"] = before + (epochs - before) * (done + 1) / planned
    return info


def sha256(path: str) -> str:
    """Return the hex digest of a file, or of what else :func:`fetch` finds.

    Raises:
        UserError: no such file, or it cannot be downloaded.
    """
    local = fetch(path)
    check_exists(local)
    return sha256_of(local)


def check_values(
    state_dict: Mapping[str, Tensor], path: str = "", *, integers: bool = False
) -> None:
    """Refuse tensors that are not dense arrays of finite floating-point numbers.

    Args:
        state_dict: tensors by name.
        path: of their file, for the message.
        integers: whether these are right, too.

    Raises:
        UserError: names the tensors and their kind, or a negative variance.
    """
    where = f"'{path}': " if path else ""
    kinds = {name: _odd_kind(value, integers=integers) for name, value in state_dict.items()}
    odd = {name: kind for name, kind in kinds.items() if kind}
    if odd:
        shown = ", ".join(f"{name} is {kind}" for name, kind in list(odd.items())[:5])
        raise UserError(
            f"{where}weights must be dense floating-point tensors, but {shown}; save the model "
            "with its values as floating-point numbers",
            code="bad-tensor",
        )
    bad = [name for name, value in state_dict.items() if not torch.isfinite(value.float()).all()]
    if bad:
        shown = ", ".join(bad[:5])
        raise UserError(f"{where}{shown} hold NaN or infinite values", code="bad-tensor")
    variances = {name: v for name, v in state_dict.items() if name.endswith("running_var")}
    negative = [name for name, value in variances.items() if (value.float() <= -1e-5).any()]
    if negative:
        shown = ", ".join(negative[:5])
        raise UserError(
            f"{where}{shown} hold negative variances; the file is damaged", code="bad-tensor"
        )


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal; those without plain values equal only themselves."""
    if one is other:
        return True
    if _odd_kind(one, integers=True) or _odd_kind(other, integers=True) or one.shape != other.shape:
        return False
    if one.dtype != other.dtype:
        return torch.equal(one.double(), other.double())
    if one.element_size() > 1 and torch.equal(one, other):
        return True
    # By bits: torch compares neither float8 nor NaN.
    bits, other_bits = (v.resolve_neg().flatten().view(torch.uint8) for v in (one, other))
    return torch.equal(bits, other_bits)


def can_be_written(name: str) -> bool:
    """Whether a name is one of Detectron2's ResNet, of an FPN or of a box head."""
    return bool(_KEY.match(name))


def is_plain(value: Any) -> bool:
    """Whether ``value`` is made of str, int, float, bool, None, and lists and dicts of them."""
    try:
        _check_plain(value, "")
    except ValueError:
        return False
    return True


def as_tensor(value: Any) -> Tensor | None:
    """Return a tensor for a tensor or a plain array of numbers of at most four axes, else None."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubc" and value.ndim <= 4:
        native = value.astype(value.dtype.newbyteorder("="), copy=not value.flags.writeable)
        with contextlib.suppress(TypeError):  # Of a width that torch lacks, such as float128.
            return torch.from_numpy(native)
    return None


def _odd_kind(value: Tensor, *, integers: bool = False) -> str:
    """Return what keeps a tensor from being a weight; "" for a dense floating-point one.

    With ``integers``, these are not odd either.
    """
    if value.is_meta:
        return "on the meta device, without values"
    if value.is_quantized:
        return f"quantized ({value.dtype})"
    if value.layout != torch.strided:
        return f"sparse ({value.layout})"
    if value.is_nested:
        return "nested"
    packed = value.dtype is getattr(torch, "float4_e2m1fn_x2", None)
    plain = value.is_floating_point() or (integers and not value.is_complex())
    return "" if plain and not packed else f"of type {value.dtype}"


def _stored(name: str, value: Tensor) -> Tensor:
    if not can_be_written(name):
        raise ValueError(
            f"'{name}' is not a name of Detectron2's ResNet (stem.…, res2.… to res5.…), FPN or "
            "box head"
        )
    if not torch.isfinite(value).all():
        raise ValueError(f"'{name}' holds NaN or infinite values")
    plain = value.detach().to("cpu", torch.float32).contiguous()
    # A clone drops what a view shares its storage with, which would be saved too.
    return plain.clone() if plain.untyped_storage().nbytes() > plain.nbytes else plain


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where}: key {key!r} is not a string")
            _check_plain(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise ValueError(f"{where} is a {type(value).__name__}, expected a plain value")
