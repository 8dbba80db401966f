"""The line that a run prints."""

import logging

from detectron2.utils.events import EventStorage

from mls_d2.run.progress import ProgressPrinter


def line(storage: EventStorage, caplog, max_iter: int = 10) -> str:
    with caplog.at_level(logging.INFO, "mls_d2.run.progress"):
        ProgressPrinter(max_iter, ("feature_std",)).write()
    return caplog.records[-1].getMessage() if caplog.records else ""


def test_a_rare_value_is_shown_as_it_is_and_a_noisy_one_as_a_median(caplog):
    with EventStorage(0) as storage:
        for value in (1.0, 9.0, 2.0):
            storage.put_scalar("loss_cls", value)
            storage.put_scalar("feature_std", value, smoothing_hint=False)
            storage.put_scalar("time", 3.0)
            storage.step()
        text = line(storage, caplog)
    assert text.startswith("4/10  loss_cls 2  feature_std 2")
    assert "ETA 0:00:18" in text


def test_the_last_of_rare_values_counts(caplog):
    with EventStorage(0) as storage:
        for value in (5.0, 1.0):
            storage.put_scalar("loss_nce", value, smoothing_hint=False)
            storage.step()
        assert "loss_nce 1" in line(storage, caplog)


def test_nothing_is_said_after_the_end(caplog):
    with EventStorage(10) as storage:
        storage.put_scalar("loss_cls", 1.0)
        assert line(storage, caplog) == ""
