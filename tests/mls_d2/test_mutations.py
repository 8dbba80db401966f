"""Seeded damage to results, shards, configs and runs: read as they are, or refused in one line."""

import contextlib
import copy
import json
import math
import random
import shutil
from collections import Counter

import numpy as np
import pytest
import yaml
from PIL import Image

from mls_d2.config.changes import flatten
from mls_d2.config.defaults import get_cfg
from mls_d2.config.loading import load_cfg
from mls_d2.config.recipes import transfer_recipe
from mls_d2.core.errors import UserError
from mls_d2.core.files import trim_metrics
from mls_d2.data.images import BrokenImageError
from mls_d2.report.curves import read_curves
from mls_d2.results.schema import read_result, write_result
from mls_d2.run.folder import RunState, run_state
from pretrain.packing import Packing, pack
from pretrain.sources import FileSource, ShardSource
from tests.mls_d2.data.mutations import FIRST_SEED, damaged, mutated
from tests.mls_d2.report.conftest import build_result

VALUES = [
    b"2020-13-45", b"!!int x", b"&a [*a]", b"<<: 3", b"1:2:3", b"0x", b".nan", b"1e999", b"{1: 2}",
    b"!!python/name:os.system", b"_BASE_: a.yaml", b"_BASE_: [1]", b"'\\x'", b"", b"[", b"7", b"-1",
    b"null", b"True", b"(1, 2)", b"'7'", b"{}", b"[]", b"1" * 400,
]  # fmt: skip


def number(value):
    try:
        return float(value) if value is not None and math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


def check_results(folder, seed):
    """Read a damaged result; its numbers are those that the file has."""
    path = folder / "results.json"
    if not path.exists():
        metrics = {"bbox": {"AP": 40.5, "AP50": math.nan}}
        write_result(path, build_result(metrics=metrics, images_per_s=math.nan))
    content = json.loads(path.read_text())
    (folder / "damaged.json").write_bytes(mutated(copy.deepcopy(content), seed))
    found = read_result(folder / "damaged.json")
    transfer_recipe(found.config)
    stored = json.loads((folder / "damaged.json").read_bytes())
    for task, metrics in found.metrics.items():
        expected = {name: number(value) for name, value in stored["metrics"][task].items()}
        np.testing.assert_equal(metrics, expected)
    assert found.seed == stored["seed"]
    np.testing.assert_equal(found.wall_time_s, number(stored["wall_time_s"]))


def check_shards(folder, seed):
    """Read from damaged shards; each image is one that was packed, or broken, and none is lost."""
    whole = folder / "whole"
    if not whole.exists():
        names = [str(folder / f"{index}.png") for index in range(5)]
        for index, name in enumerate(names):
            Image.fromarray(np.full((4, 5, 3), index, np.uint8)).save(name)
        pack(FileSource(names), str(whole), Packing(per_shard=2))
    rng = random.Random(seed)
    cut = folder / "cut"
    shutil.rmtree(cut, ignore_errors=True)
    shutil.copytree(whole, cut)
    path = rng.choice(sorted(cut.glob("*.npy")) + [cut / "shards.json"] * 3)
    if path.suffix == ".json" and rng.random() < 0.7:
        path.write_bytes(mutated(json.loads(path.read_bytes()), seed))
    else:
        path.write_bytes(damaged(path.read_bytes(), rng))
    source = ShardSource(str(cut))
    packed = {(folder / f"{index}.png").read_bytes() for index in range(5)}
    for position in range(int(source.counts.sum())):
        with contextlib.suppress(BrokenImageError):
            data = source.read(position)
            assert data in packed or path.suffix == ".npy"
    assert path.suffix == ".json" or source.counts.sum() == 5


def check_config(folder, seed):
    """Load a damaged config; its values are those that PyYAML reads."""
    rng = random.Random(seed)
    text = (
        b"PRESET: quick\nSEED: 3\nPRETRAIN: {METHOD: mls, EPOCHS: 2.5}\nSOLVER:\n"
        b"  BASE_LR: 0.3\n  IMS_PER_BATCH: 8\nDATASETS:\n  TRAIN: ('a', 'b')\nMLS:\n  K: 7\n"
    )
    lines = text.split(b"\n")
    for _ in range(rng.randint(1, 2)):
        place = rng.randrange(len(lines))
        key, colon, _ = lines[place].partition(b":")
        lines[place] = rng.choice(
            [key + colon + b" " + rng.choice(VALUES), rng.choice(VALUES), b" " + lines[place],
             lines[place] + b"\n" + rng.choice(lines)]
        )  # fmt: skip
    data = b"\n".join(lines) if rng.random() < 0.7 else damaged(text, rng)
    (folder / "a.yaml").write_bytes(data)
    cfg = flatten(load_cfg(str(folder / "a.yaml")))
    for key, value in flatten(yaml.safe_load(data)).items():
        if isinstance(value, int | float):
            np.testing.assert_equal(cfg[key], value, key)


def check_run(folder, seed):
    """Resume a run of which the config, the record or the log is damaged."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(folder), 3
    rng = random.Random(seed)
    config, record = cfg.dump().encode(), {"inputs": {"a": "b"}, "earlier": []}
    if rng.random() < 0.5:
        lines = config.split(b"\n")
        place = rng.randrange(len(lines))
        lines[place] = lines[place].partition(b":")[0] + b": " + rng.choice(VALUES)
        config = damaged(config, rng) if rng.random() < 0.3 else b"\n".join(lines)
    rows = mutated([{"iteration": number, "loss": 1.0} for number in range(5)], seed)
    (folder / "model_final.pth").touch()
    (folder / "config.yaml").write_bytes(config)
    (folder / "environment.json").write_bytes(mutated(record, seed))
    (folder / "metrics.json").write_bytes(rows.strip(b"[]").replace(b"}, {", b"}\n{"))
    read_curves(folder / "metrics.json")
    trim_metrics(str(folder / "metrics.json"), 3)
    kept = (folder / "metrics.json").read_text().splitlines()
    assert all(json.loads(row)["iteration"] < 3 for row in kept)
    assert run_state(cfg, "backbone.pth", resume=True, inputs={"a": "b"}) == RunState.RESUME


CHECKS = {
    "results": check_results,
    "shards": check_shards,
    "configs": check_config,
    "runs": check_run,
}


def count(check, folder, seeds):
    """Return how many files are read; anything but success or one line with a code fails."""
    outcomes = Counter()
    for seed in seeds:
        try:
            check(folder, seed)
            outcomes["read"] += 1
        except UserError as error:
            outcomes["refused" if error.code else "without a code"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    assert not outcomes["without a code"]
    return outcomes


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", CHECKS)
def test_damaged_files_are_read_or_refused(tmp_path, kind):
    outcomes = count(CHECKS[kind], tmp_path, range(60))
    assert outcomes["read"] > 0 < outcomes["refused"]


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", CHECKS)
def test_thousands_of_damaged_files_are_read_or_refused(tmp_path, kind):
    number = 400 if kind == "runs" else 2000
    count(CHECKS[kind], tmp_path, range(FIRST_SEED, FIRST_SEED + number))
