"""Older versions of ``results.json``, made into the one that this version writes.

A new schema version adds one function here, from the version before it; the files of all versions
before it are then read through the chain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mls_d2.core.errors import UserError

RESULTS_SCHEMA = 2
"""The version of the schema that is written."""

Fields = dict[str, Any]


def migrate(fields: Fields, what: str) -> Fields:
    """Return the fields of a result in version :data:`RESULTS_SCHEMA`.

    Args:
        fields: of any version; unchanged by this function.
        what: what an error message starts with.

    Raises:
        UserError: no such version: it is newer than this code, or damaged.
    """
    schema = fields.get("schema")
    known = f"{min(_STEPS)} to {RESULTS_SCHEMA}"
    if isinstance(schema, bool) or not isinstance(schema, int):
        raise UserError(
            f"{what}: schema {schema!r}, this version reads {known}; run that evaluation again"
        )
    if schema > RESULTS_SCHEMA:
        raise UserError(
            f"{what}: schema {schema}, this version reads {known}; it was written by a newer "
            "mls_d2: update this one"
        )
    if schema < min(_STEPS):
        raise UserError(
            f"{what}: schema {schema}, this version reads {known}; run that evaluation again"
        )
    while schema < RESULTS_SCHEMA:
        fields = {**_STEPS[schema](fields), "schema": schema + 1}
        schema += 1
    return fields


def _add_device(fields: Fields) -> Fields:
    """From 1 to 2: what it ran on was not recorded."""
    return {**fields, "device": {"kind": "unknown", "name": "", "count": 0}}


_STEPS: dict[int, Callable[[Fields], Fields]] = {1: _add_device}
"""By the version that a step starts from."""
