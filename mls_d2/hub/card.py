"""The model card of a backbone: where it comes from, what it cost, what it reached, how to load it.

The front matter is that of the Hugging Face Hub, https://huggingface.co/docs/hub/model-cards.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mls_d2.report.curves import read_curves
from mls_d2.report.groups import group_results
from mls_d2.report.render import markdown_escape, markdown_table
from mls_d2.report.tables import ReportOptions, cost_table, results_table
from mls_d2.results.schema import collect_results

LIBRARY = "mls_d2"  # the tag that backbones are found by
_CARD = """\
---
{front}---

# {name}

A ResNet pretrained with `{method}`, for [Detectron2](https://github.com/facebookresearch/detectron2).

| | |
| --- | --- |
{facts}

## Use

```
mls-train --config-file {config} MODEL.WEIGHTS {weights}
mls-convert {weights} detectron2.pth    # for Detectron2 without mls_d2
```

```python
from detectron2.modeling import build_model
from mls_d2.checkpoint.initial_weights import load_initial_weights
from mls_d2.config.loading import load_cfg
model = build_model(cfg := load_cfg("{config}", ["MODEL.DEVICE", "cpu"]))
load_initial_weights(model, "{weights}", cfg)
```

## Results

{results}
"""


def model_card(
    weights: str,
    info: Mapping[str, Any],
    *,
    digests: Sequence[str],
    run: Path,
    licence: str = "unknown",
    results: Iterable[Path] = (),
) -> str:
    """Return the card, in Markdown.

    Args:
        weights: what a user gives as MODEL.WEIGHTS; its last part is the title.
        info: the pretraining metadata of the backbone file.
        digests: sha256 of the file, and of the files with the same tensors.
        run: folder of the pretraining, whose ``metrics.json`` has the cost.
        licence: identifier of the hub, for example "apache-2.0".
        results: folders; what lies below them and started from a file in ``digests`` is shown.

    Raises:
        UserError: one of these folders does not exist.
    """
    method = str(info.get("method", "not recorded"))
    front = {"library_name": LIBRARY, "license": licence, "tags": [LIBRARY, "detectron2", method]}
    data = info.get("dataset") or ["not recorded"]
    synthetic = " (generated scenes: a toy, no COCO numbers)" if info.get("synthetic") else ""
    epochs = info.get("epochs")
    facts = {
        "method": method,
        "data": (data if isinstance(data, str) else ", ".join(map(str, data))) + synthetic,
        "epochs": f"{epochs:g}" if isinstance(epochs, int | float) else "not recorded",
        "seed": info.get("seed", "not recorded"),
        "cost": pretraining_cost(run, info) or "not recorded",
        "input": f"{info.get('input_format', 'not recorded')}, mean {info.get('pixel_mean')}, std "
        f"{info.get('pixel_std')}",
        "licence": licence,
        "sha256": digests[0],
    }
    return _CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        name=Path(weights).parent.name if weights.endswith(".safetensors") else Path(weights).name,
        method=method,
        facts="\n".join(f"| {key} | {markdown_escape(str(fact))} |" for key, fact in facts.items()),
        weights=weights,
        config=f"mask_rcnn_R_50_FPN_{'quick' if info.get('preset') == 'quick' else '1x'}",
        results=_results(digests, results) or "None yet.",
    )


def pretraining_cost(folder: Path, info: Mapping[str, Any]) -> str:
    """Return steps, hours and memory by the ``metrics.json`` of a pretraining run; "" without."""
    curves = read_curves(folder / "metrics.json")
    if "time" not in curves or not isinstance(info.get("iterations"), int):
        return ""
    hours = curves["time"].values.mean() * info["iterations"] / 3600
    memory = f", {curves['peak_memory_mb'].values.max():.0f} MiB" * ("peak_memory_mb" in curves)
    return f"{info['iterations']} steps, {hours:.3g} hours{memory}"


def _results(digests: Sequence[str], folders: Iterable[Path]) -> str:
    found, _ = collect_results(folders)
    groups, _ = group_results([run for run in found if run.result.backbone.sha256 in digests])
    parts = []
    for group in groups:
        seeds = ", ".join(str(run.result.seed) for run in group.runs)
        tables = (
            markdown_table(results_table(group, ReportOptions())),
            markdown_table(cost_table(group)),
        )
        parts.append(f"**{group.title}**, seeds {seeds}\n\n{tables[0]}\n\n{tables[1]}")
    note = "Mean ± sample standard deviation over n runs, in percent."
    return "\n\n".join([*parts, note]) if parts else ""
