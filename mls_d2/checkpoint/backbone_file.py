"""The backbone file, the one thing that pretraining hands to the transfer.

``{"model": {unprefixed float32 tensors}, "__author__": …, "matching_heuristics": True, "pretrain":
{plain metadata}}``; Detectron2 reads it as it is, into every model with that ResNet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mls_d2.checkpoint.reading import check_exists, read_object
from mls_d2.core.errors import UserError
from mls_d2.core.files import atomic_write, sha256_of

AUTHOR = "mls_d2"
# The backbone without a prefix, so that it fits every model; other parts with their full names.
_KEY = re.compile(r"((stem|res[2-5])|backbone\.fpn_(lateral|output)[2-5]|roi_heads\.box_head)\.")


@dataclasses.dataclass(frozen=True)
class BackboneFile:
    """What a weights file holds.

    Attributes:
        state_dict: tensors on the CPU by name, as stored.
        info: the metadata under ``"pretrain"``; empty where the file has none.
        other_keys: top-level entries beside the tensors, for example ``"trainer"``.
    """

    state_dict: dict[str, Tensor]
    info: dict[str, Any]
    other_keys: tuple[str, ...] = ()


def write_backbone(path: str, state_dict: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write a backbone file; it appears complete or not at all.

    Args:
        path: ``.pkl`` stores NumPy arrays in a pickle, any other suffix (``.pth``) torch tensors.
        state_dict: of Detectron2's ResNet, with its own unprefixed names (``stem.conv1.weight``,
            …), and possibly of an FPN and a box head, with full ones (``backbone.fpn_lateral3.…``,
            ``roi_heads.box_head.…``). Stored as float32; ``num_batches_tracked`` is left out.
        info: plain metadata (str, int, float, bool, None, lists and dicts of them): method,
            dataset, epochs, iterations, config, versions, pixel_mean, pixel_std, input_format,
            seed, synthetic.

    Raises:
        ValueError: a name is not one of Detectron2's ResNet, a value is not finite, or ``info`` is
            not plain.
        UserError: the folder is full or unwritable.
    """
    tensors = {name: _stored(name, value) for name, value in state_dict.items() if _kept(name)}
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
        else:
            torch.save(content, file)


def read_backbone(path: str) -> BackboneFile:
    """Read a weights file without running code from it.

    Args:
        path: a file of :func:`write_backbone`, or any torch file or NumPy ``.pkl`` that holds
            tensors by name, at its top or under ``"model"``.

    Raises:
        UserError: no such file, truncated, not a checkpoint (a web page, a Git LFS pointer), holds
            objects other than tensors and plain values, or holds no tensors.
    """
    content = read_object(path)
    if not isinstance(content, dict):
        raise UserError(f"'{path}' holds a {type(content).__name__}, expected tensors by name")
    model = content.get("model", content)
    if not isinstance(model, dict):
        raise UserError(
            f"'{path}' holds a {type(model).__name__} under 'model', expected tensors by name"
        )
    tensors = {str(name): as_tensor(value) for name, value in model.items()}
    wrong = [name for name, value in tensors.items() if value is None]
    if wrong or not tensors:
        found = ", ".join(map(str, list(model)[:5])) or "nothing"
        raise UserError(
            f"'{path}' does not hold tensors by name (found {found}); "
            "convert it with tools/convert.py"
        )
    # A checkpoint of a transfer run remembers its backbone in its own metadata.
    holder = content if "pretrain" in content else content.get("metadata")
    info = holder.get("pretrain") if isinstance(holder, dict) else None
    return BackboneFile(
        state_dict={name: value for name, value in tensors.items() if value is not None},
        info=info if isinstance(info, dict) else {},
        other_keys=tuple(map(str, content)) if model is not content else (),
    )


def sha256(path: str) -> str:
    """Return the hex digest of a file.

    Raises:
        UserError: no such file.
    """
    check_exists(path)
    return sha256_of(path)


def check_finite(state_dict: Mapping[str, Tensor]) -> None:
    """Refuse NaN and infinity.

    Raises:
        UserError: names the tensors.
    """
    bad = [name for name, value in state_dict.items() if not torch.isfinite(value).all()]
    if bad:
        raise UserError(f"{', '.join(bad[:5])} hold NaN or infinite values")


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


def _kept(name: str) -> bool:
    return not name.endswith("num_batches_tracked")


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


def as_tensor(value: Any) -> Tensor | None:
    """Return a tensor for a tensor or a plain array of numbers of at most four axes, else None."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.ndim <= 4:
        native = value.astype(value.dtype.newbyteorder("="), copy=not value.flags.writeable)
        with contextlib.suppress(TypeError):  # Of a width that torch lacks, such as float128.
            return torch.from_numpy(native)
    return None
