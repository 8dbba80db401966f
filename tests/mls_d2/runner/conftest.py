"""A checkout of four small configs, and stubs in place of the tools."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mls_d2.run.signals import InterruptGuard
from mls_d2.runner.cells import Tools, plan_cells
from mls_d2.runner.executors import LocalExecutor, Pool, run_cells
from mls_d2.runner.store import Store
from mls_d2.runner.suite import build_suite

CONFIGS = {
    "pretrain/configs/mls_quick.yaml": "PRETRAIN:\n  METHOD: mls\n",
    "pretrain/configs/mocov2_quick.yaml": "PRETRAIN:\n  METHOD: mocov2\n",
    "transfer_configs/coco/mask_rcnn_R_50_FPN_quick.yaml": "SOLVER:\n  MAX_ITER: 8\n",
    "transfer_configs/voc/faster_rcnn_R_50_C4_quick.yaml": "SOLVER:\n  MAX_ITER: 9\n",
}


class Bench:
    """A checkout, a folder of results, and the notes of the stubs."""

    def __init__(self, folder: Path) -> None:
        self.root, self.out, self._stubs = folder / "checkout", folder / "out", folder / "stubs"
        for name, text in CONFIGS.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self._stubs.mkdir()
        self.stub = shutil.copy(Path(__file__).with_name("stub_tool.py"), self._stubs)
        names = ("pretrain", "convert", "train_net", "report")
        self.tools = Tools(*((sys.executable, "-S", str(self.stub), name) for name in names))

    def suite(self, **content):
        given = {"methods": ["random", "mls"], "tasks": ["coco"], "seeds": [0]} | content
        checkpoints = given.pop("checkpoints", None)
        return build_suite(given, self.root, checkpoints=checkpoints)

    def cells(self, gpus=False, **content):
        return plan_cells(self.suite(**content), gpus=gpus)

    def control(self, *entries):
        """Let the tools whose command lines contain all the words do something else."""
        (self._stubs / "control.json").write_text(json.dumps(entries))

    def calls(self, event="start"):
        path = self._stubs / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        entries = [SimpleNamespace(**json.loads(line)) for line in lines]
        return [entry for entry in entries if entry.event == event]

    def run(self, jobs=2, cells=None, pool=None, **content):
        """Run a suite, or cells, on this machine and return the outcomes by name."""
        options = {name: content.pop(name) for name in ("durations", "watch") if name in content}
        store = Store(self.out)
        executor = LocalExecutor(store, self.tools, pool or Pool([], jobs))
        with InterruptGuard() as guard:
            cells = cells or self.cells(**content)
            outcomes = run_cells(cells, store, executor, guard, **options)
        return {cell.name: outcome for cell, outcome in outcomes.items()}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    data = tmp_path / "datasets"
    (data / "coco").mkdir(parents=True)  # real data: no scenes are generated
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Bench(tmp_path)
