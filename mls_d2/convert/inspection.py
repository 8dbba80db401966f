"""Description of a checkpoint's content, without converting it."""

import os
from collections.abc import Mapping
from typing import Any

from mls_d2.checkpoint.backbone_file import as_tensor, check_values, sha256
from mls_d2.checkpoint.reading import read_object
from mls_d2.convert.architecture import architecture_of, check_coverage
from mls_d2.convert.contents import tensor_maps
from mls_d2.convert.encoders import FoundEncoder, choose, find_encoders, without_copies
from mls_d2.convert.layouts import detectron2_name
from mls_d2.core.errors import UserError

_SHOWN = 4


def inspect_file(
    path: str, *, source: str = "auto", encoder: str | None = None, stubs: bool = False
) -> dict[str, Any]:
    """Describe a file: its content, its encoders, and which of them would be taken.

    Takes what :func:`mls_d2.convert.convert.load_backbone` takes.

    Returns:
        Plain values: size and sha256; ``entries``, its top level; ``tensors``, each dict of tensors
        with its number and first names; ``encoders``, each with its network or its fault, or that
        it is a copy; ``taken`` and ``source``, or ``refused`` with the reason.

    Raises:
        UserError: it cannot be read at all.
    """
    content = read_object(path, stubs=stubs)
    try:
        maps = list(tensor_maps(content))
    except UserError as error:
        raise UserError(f"'{path}': {error}", code=error.code) from None
    found: dict[str, Any] = {
        "bytes": os.path.getsize(path),
        "sha256": sha256(path),
        "entries": _entries(content),
        "tensors": {
            " > ".join(where) or ".": {"count": len(names), "first": list(names)[:_SHOWN]}
            for where, names in maps
        },
        "encoders": {},
    }
    try:
        encoders = find_encoders(content)
        different = without_copies(encoders)
        found["encoders"] = {
            item.label: _explain(item) if item in different else "a copy of one above"
            for item in encoders
        }
        chosen, entry = choose(encoders, source=source, encoder=encoder)
    except UserError as error:
        return found | {"refused": str(error)}
    return found | {"taken": chosen.label, "source": entry.name, "source_title": entry.title}


def _entries(content: Any) -> dict[str, str]:
    if not isinstance(content, Mapping):
        return {".": type(content).__name__}
    return {
        str(key): type(value).__name__ for key, value in content.items() if as_tensor(value) is None
    }


def _explain(item: FoundEncoder) -> str:
    """Return which network an encoder is, or what is wrong with it."""
    try:
        named, left = item.tensors()
        item.check_nothing_more(left)
        check_values(named)
        sizes = architecture_of(named)
        check_coverage({detectron2_name(name): value for name, value in named.items()}, sizes)
    except UserError as error:
        return f"{item.layout.name} names; {error}"
    widths = f"stem {sizes.stem_out_channels}, res2 {sizes.res2_out_channels}"
    groups = f"{sizes.num_groups}×{sizes.width_per_group}"
    return f"{item.layout.name} names; ResNet-{sizes.depth} ({widths}, groups {groups}), whole"
