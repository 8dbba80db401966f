#!/usr/bin/env python3
"""The time of a report of many results: the whole call that tools/report.py makes.

The results are random, with the size of real ones: a whole config, all of COCO's metrics by
category, a hundred lines of metrics.json and a picture for each run. Imports do not count.
"""

import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from timing import parse

from mls_d2.config.defaults import get_cfg
from mls_d2.core.errors import run_tool
from mls_d2.report.build import PICTURE_FILE, write_report
from mls_d2.report.curves import METRICS_FILE
from mls_d2.results.schema import (
    RESULTS_FILE,
    Dataset,
    Device,
    InitialWeights,
    Result,
    write_result,
)
from mls_d2.run.environment import collect_versions

SEEDS = 5
METHODS = 10


def make_results(root: Path, count: int) -> None:
    """Write ``count`` runs below ``root``: ten methods with five seeds per task."""
    rng = random.Random(0)  # noqa: S311 - not for secrets
    noise = np.random.default_rng(0).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / PICTURE_FILE)
    picture = (root / PICTURE_FILE).read_bytes()
    (root / PICTURE_FILE).unlink()
    config, versions = get_cfg().dump(), collect_versions()
    for number in range(count):
        cell, seed = divmod(number, SEEDS)
        task, method = divmod(cell, METHODS)
        result = _result(f"task{task}", method, seed, rng, config, versions)
        folder = root / f"task{task}" / f"{result.method}-{seed}"
        write_result(folder / RESULTS_FILE, result)
        (folder / PICTURE_FILE).write_bytes(picture)
        names = ("total_loss", "loss_cls", "loss_mask", "lr", "data_time", "time")
        lines = [
            json.dumps({"iteration": i, **{name: rng.random() + 3 / (1 + i) for name in names}})
            for i in range(0, 2000, 20)
        ]
        (folder / METRICS_FILE).write_text("\n".join(lines) + "\n")


def _result(
    task: str, method: int, seed: int, rng: random.Random, config: str, versions: dict
) -> Result:
    name = f"method{method}" if method else "random"
    ap = 10 + method + rng.random()
    info = {"dataset": ["coco_2017_train"], "epochs": 400.0, "config": config}
    metrics = {"AP": ap, "AP50": 1.6 * ap, "AP75": 0.9 * ap, "APs": 1.0, "APm": 2.0, "APl": 3.0}
    metrics |= {f"AP-category{i}": rng.random() for i in range(80)}
    return Result(
        method=name,
        backbone=InitialWeights(
            file=f"output/{name}/backbone.pth" if method else "random",
            sha256=f"{method:064d}" if method else "",
            info=info if method else {},
        ),
        task=task,
        preset="quick",
        metrics={"bbox": metrics, "segm": metrics},
        seed=seed,
        dataset=Dataset(
            name="coco_2017_train, coco_2017_val",
            root="datasets",
            num_images=118287,
            synthetic=True,
            fingerprint="0" * 64,
        ),
        device=Device(kind="cuda", name="a GPU", count=8),
        config=config,
        versions=versions,
        wall_time_s=3600 * rng.random(),
        peak_memory_mb=9000.0,
        images_per_s=60 + rng.random(),
        finished=f"2026-01-01T00:00:{seed:02d}+00:00",
        command="tools/train_net.py",
    )


def main() -> None:
    """Make results, write the report and print how long it took."""
    args = parse(__doc__, results=500)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_results(root, args.results)
        wall, cpu = time.perf_counter(), time.process_time()
        report = write_report([root], root / "report")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        written = sum(path.stat().st_size for path in (root / "report").iterdir()) / 2**20
    print(
        f"{len(report.runs)} results, {len(report.sections)} tables: {wall:.2f} s, of which "
        f"{cpu:.2f} s on the CPU; {written:.0f} MiB written"
    )


if __name__ == "__main__":
    run_tool(main)
