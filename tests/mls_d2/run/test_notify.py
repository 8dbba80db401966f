"""The command that a finished run starts, which cannot fail the run."""

import logging
import subprocess

import pytest

from mls_d2.run.notify import notify


def test_the_command_gets_every_fact_as_a_variable_and_nothing_of_it_is_code(tmp_path, monkeypatch):
    written = tmp_path / "written"
    monkeypatch.setenv("MLS_D2_NOTIFY", f'echo "$RUN_TASK: $RUN_RESULT" > {written}')
    notify(task="coco", result="box AP 1.5; $(exit 3) `exit 4`")
    assert written.read_text() == "coco: box AP 1.5; $(exit 3) `exit 4`\n"


@pytest.mark.parametrize("command", [None, ""])
def test_without_a_command_nothing_is_run(monkeypatch, command):
    started = []
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: started.append(args))
    monkeypatch.delenv("MLS_D2_NOTIFY", raising=False)
    if command is not None:
        monkeypatch.setenv("MLS_D2_NOTIFY", command)
    notify(task="coco")
    assert not started


@pytest.mark.parametrize(
    ("command", "fact", "message"),
    [
        ("exit 3", "x", "ended with code 3"),
        ("sleep 9", "x", "has not ended within 0 s"),
        ("true", "a\0b", "could not be run"),
    ],
)
def test_a_failing_command_is_a_warning(monkeypatch, caplog, command, fact, message):
    monkeypatch.setenv("MLS_D2_NOTIFY", command)
    if "sleep" in command:
        monkeypatch.setattr("mls_d2.run.notify._TIMEOUT_S", 0)
    with caplog.at_level(logging.WARNING):
        notify(task=fact)
    assert message in caplog.text
