"""Which published numbers may stand beside a result, and why others may not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from mls_d2.config.recipes import Recipe, pretraining_recipe, transfer_recipe
from mls_d2.core.errors import UserError
from mls_d2.report.published_file import Protocol, Published, PublishedRow
from mls_d2.results.schema import Result, pretraining_datasets


def published_beside(result: Result, published: Published) -> PublishedRow | None:
    """Return the row whose numbers may stand beside ``result``; None where there is none."""
    if not_comparable(result, published):
        return None
    backbone = result.backbone
    return matching_row(published.of_task(result.task), method=result.method, info=backbone["info"])


def not_comparable(result: Result, published: Published) -> str:
    """Say why no published number may stand beside ``result``; empty where one may.

    Preset, data, length of the fine-tuning and the backbone's data decide; whether a row of the
    same method exists does not.
    """
    reasons = []
    if result.preset == "quick":
        reasons.append("shortened schedule")
    elif result.preset != "paper":
        reasons.append(f"preset {result.preset}, not the published recipe")
    elif result.task in published.protocols:
        reasons += _short_of(published.protocols[result.task], result)
    if result.dataset["synthetic"]:
        reasons.append("synthetic scenes")
    elif result.backbone["info"].get("synthetic"):
        reasons.append("backbone pretrained on synthetic scenes")
    return ", ".join(reasons)


def why_not_compared(result: Result, published: Published) -> str:
    """Say why :func:`published_beside` has no row for ``result``."""
    reason = not_comparable(result, published)
    if reason:
        return reason
    rows = published.of_task(result.task)
    if not rows:
        return f"there are none for task {result.task}"
    same = list(dict.fromkeys(row.pretraining for row in rows if row.method == result.method))
    if same and result.backbone["sha256"] and not pretraining_datasets(result.backbone["info"]):
        return "its file does not say what it was pretrained on"
    if same:
        return f"{result.method} is published there with other pretraining ({'; '.join(same)})"
    methods = ", ".join(dict.fromkeys(row.method for row in rows))
    return f"there are none for {result.method} on {result.task}, only for {methods}"


def matching_row(
    rows: Iterable[PublishedRow], *, method: str, info: Mapping[str, Any]
) -> PublishedRow | None:
    """Return the published row that one of our backbones is to be compared with.

    Args:
        rows: the rows of the task.
        method: our method's name.
        info: metadata of our backbone; ``dataset``, ``epochs``, ``config`` and ``synthetic``
            count.

    Returns:
        The first row of the same method whose pretraining data are ours, whose epochs are ours or
        not stated in the paper, and whose config ours does not contradict; None where there is
        none.
    """
    if info.get("synthetic"):
        return None
    # No dataset counts as one without a name, which only a row without data matches.
    datasets = [name.lower() for name in pretraining_datasets(info)] or [""]
    recipe: Recipe = {}
    if "config" in info:
        with contextlib.suppress(UserError):
            recipe = pretraining_recipe(str(info["config"]))
    for row in rows:
        same_data = all(row.dataset in name for name in datasets) and (
            bool(row.dataset) or datasets == [""]
        )
        same_epochs = row.epochs in (None, info.get("epochs"))
        if row.method == method and same_data and same_epochs and _agrees(recipe, row.config):
            return row
    return None


def is_shortened(result: Result, protocols: Mapping[str, Protocol]) -> bool:
    """Say whether a result's fine-tuning was shorter than the published one, on purpose or not."""
    if result.preset == "quick":
        return True
    return result.task in protocols and bool(shortened(result, protocols[result.task]))


def shortened(result: Result, protocol: Protocol) -> str:
    """Say how much shorter than ``protocol`` the fine-tuning was; empty where it was not."""
    try:
        recipe = transfer_recipe(result.config)
        iterations = int(recipe["SOLVER.MAX_ITER"])
        batch = int(recipe["SOLVER.IMS_PER_BATCH"])
    except (UserError, KeyError, ValueError):
        return ""
    # Rounding on another number of processes may cost a few iterations.
    if iterations * batch >= 0.99 * protocol.iterations * protocol.batch:
        return ""
    return (
        f"shortened schedule, {iterations} iterations of {batch} images instead of "
        f"{protocol.iterations} of {protocol.batch}"
    )


def _short_of(protocol: Protocol, result: Result) -> list[str]:
    reasons = [shortened(result, protocol)]
    images = result.dataset["num_images"]
    if images not in protocol.images:
        expected = " or ".join(map(str, protocol.images))
        reasons.append(f"another dataset, {images} images instead of {expected}")
    return [reason for reason in reasons if reason]


def _agrees(recipe: Recipe, config: Mapping[str, Any]) -> bool:
    return all(_same(recipe[key], str(value)) for key, value in config.items() if key in recipe)


def _same(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other
