"""Differences between two configs, and the keys that may change when a run is resumed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from mls_d2.core.errors import UserError
from mls_d2.core.files import YAML_FAULTS

# Settings, and sections of them.
RESUMABLE_CHANGES = (
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "PRETRAIN.KEEP_CHECKPOINTS",
    "PRETRAIN.PERMANENT_PERIOD",
    "PRETRAIN.LOG_PERIOD",
    "PRETRAIN.MAX_BROKEN_SHARE",
    "PRETRAIN.LABEL_QUALITY",
    # Their content may not change: a run stores its digest.
    "PRETRAIN.PROPOSALS",
    "PRETRAIN.CORRESPONDENCES",
    "PRETRAIN.ONLINE_EVAL",
    "TEST.EVAL_PERIOD",
    "TEST.SAVE_PREDICTIONS",
    "TRACKERS",
    "VIS_PERIOD",
    "VERSION",
)


def affects_results(key: str) -> bool:
    """Whether a config key, such as ``"SOLVER.BASE_LR"``, changes what a run computes."""
    return not is_under(key, RESUMABLE_CHANGES)


def is_under(key: str, names: Iterable[str]) -> bool:
    """Whether a dotted key is one of ``names``, or is in a section of that name."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def config_changes(
    saved_yaml: str, config_yaml: str, ignore: Sequence[str] = RESUMABLE_CHANGES
) -> list[str]:
    """Return one line for every key whose value differs between two configs.

    Args:
        saved_yaml: text of a ``config.yaml`` that a run wrote.
        config_yaml: text of the present config.
        ignore: dotted keys, or sections, that may differ.

    Returns:
        Lines such as ``"SOLVER.BASE_LR: was 0.02, is 0.01"``, sorted by key.

    Raises:
        UserError: ``saved_yaml`` is not a config.
    """
    try:
        found = differences(saved_yaml, config_yaml)
    except YAML_FAULTS:
        raise UserError(
            "the saved config.yaml is damaged; start in another OUTPUT_DIR", code="damaged-file"
        ) from None
    return [
        f"{key}: was {before!r}, is {now!r}"
        for key, before, now in found
        if not is_under(key, ignore)
    ]


def differences(one_yaml: str, other_yaml: str) -> list[tuple[str, Any, Any]]:
    """Return (key, value, other value) for every key that differs, sorted by key."""
    one, other = (flatten(yaml.safe_load(text)) for text in (one_yaml, other_yaml))
    pairs = [
        (key, one.get(key, "(unset)"), other.get(key, "(unset)"))
        for key in sorted(one.keys() | other.keys())
    ]
    return [pair for pair in pairs if pair[1] != pair[2]]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted key; an empty mapping is a leaf."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
