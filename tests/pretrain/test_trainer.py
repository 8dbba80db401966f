"""Pieces of the training loop."""

from types import SimpleNamespace

import torch
from detectron2.utils.events import EventStorage

from pretrain import trainer as trainer_module
from pretrain.trainer import PretrainTrainer, ScalarMeans


def test_means_are_over_the_steps_since_they_were_taken():
    means = ScalarMeans()
    for value in (1.0, 2.0, 6.0):
        means.add({"a": torch.tensor(value), "b": torch.tensor(-value, requires_grad=True)})
    taken = means.take()
    assert {name: value.item() for name, value in taken.items()} == {"a": 3.0, "b": -3.0}
    assert not taken["b"].requires_grad
    assert means.take() == {}
    means.add({"a": torch.tensor(5.0)})
    assert means.take()["a"].item() == 5.0


def test_means_go_on_after_a_resume():
    first, second = ScalarMeans(), ScalarMeans()
    first.add({"a": torch.tensor(1.0)})
    first.add({"a": torch.tensor(2.0)})
    second.load_state_dict(first.state_dict())
    second.add({"a": torch.tensor(6.0)})
    assert second.take()["a"].item() == 3.0


def test_what_could_not_be_measured_is_not_logged():
    logger = SimpleNamespace(storage=EventStorage())
    scalars = {"known": torch.tensor(1.5), "unknown": torch.tensor(float("nan"))}
    PretrainTrainer._put(logger, scalars, {})
    assert logger.storage.latest() == {"known": (1.5, 0)}


def test_what_processes_reduce_stays_on_their_device(monkeypatch):
    reduced = {}

    def reduce(scalars):
        reduced.update({name: value.device.type for name, value in scalars.items()})
        return {name: torch.zeros(()) for name in scalars}

    monkeypatch.setattr(trainer_module.comm, "reduce_dict", reduce)
    logger = SimpleNamespace(storage=EventStorage())
    PretrainTrainer._put(logger, {"a": torch.zeros((), device="meta")}, {"b": torch.zeros(())})
    assert reduced == {"a": "meta", "b": "meta"}
