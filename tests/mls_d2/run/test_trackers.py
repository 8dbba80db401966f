"""Trackers against stand-ins of their packages that note every call."""

import logging
import sys
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from mls_d2.run.trackers import build_trackers

CONFIG = "SOLVER: {BASE_LR: 0.5}\n"


class Wandb:
    """The calls of wandb that are used: a run is an object."""

    def __init__(self):
        self.calls = []

    def init(self, *, id, resume, name, dir, config):
        self.calls.append(("start", id, name, config))
        assert resume == "allow"
        return SimpleNamespace(id=id or "r1", log=self.log, finish=self.finish)

    def log(self, values, *, step):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append("end")


class MLflow(Wandb):
    """The calls of mlflow that are used: a run is that of the module."""

    def start_run(self, *, run_id, run_name):
        self.calls.append(("start", run_id, run_name, None))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "r1"))

    def log_dict(self, content, file):
        assert file == "config.yaml"
        self.calls[-1] = (*self.calls[-1][:3], content)

    def log_metrics(self, values, *, step):
        self.log(values, step=step)

    def end_run(self):
        self.finish()


@pytest.fixture(params=[Wandb, MLflow])
def package(request, monkeypatch):
    module = request.param()
    module.name = request.param.__name__.lower()
    monkeypatch.setitem(sys.modules, module.name, module)
    return module


def test_new_scalars_are_sent_once_and_a_resumed_run_continues(package, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for start in (0, 2):
        (tracker,) = build_trackers([package.name], str(folder), CONFIG)
        with EventStorage(start) as storage:
            for value in (1.0, 3.0):
                storage.put_scalar("loss", value)
                storage.put_scalar("AP", value, smoothing_hint=False)
                if value == 1.0:
                    storage.step()
            tracker.write()
            storage.step()
            storage.put_scalar("late", 5.0)
            tracker.write()
            tracker.write()
        tracker.close()
    config = {"SOLVER": {"BASE_LR": 0.5}}
    sent = {"loss": 2.0, "AP": 3.0}  # the median of both steps, and the last value
    assert package.calls == [
        ("start", None, "run", config),
        (1, sent),
        (2, {"late": 5.0}),
        "end",
        ("start", "r1", "run", config),
        (3, sent),
        (4, {"late": 5.0}),
        "end",
    ]


def test_a_failure_costs_the_scalars_alone(package, tmp_path, caplog, monkeypatch):
    (tracker,) = build_trackers([package.name], str(tmp_path), CONFIG)

    def fail(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(tracker, "send", fail)
    with EventStorage(7) as storage, caplog.at_level(logging.WARNING):
        storage.put_scalar("loss", 1.0)
        tracker.write()
    assert f"{package.name} did not take step 7: no route" in caplog.text


def test_missing_packages_and_unknown_names_are_refused(tmp_path, monkeypatch, refuses):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with refuses("missing-package", "pip install wandb"):
        build_trackers(["wandb"], str(tmp_path), CONFIG)
    with refuses("unknown-name", "did you mean 'mlflow'"):
        build_trackers(["ml-flow"], str(tmp_path), CONFIG)
    assert list(tmp_path.iterdir()) == []
