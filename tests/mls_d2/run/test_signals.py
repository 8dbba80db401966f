"""Signals are noted until the step has ended, and processes agree on them."""

import os
import signal

import pytest

from mls_d2.core.errors import Preempted
from mls_d2.run.signals import InterruptGuard


def test_the_first_signal_is_noted_and_handlers_come_back(caplog):
    before = signal.getsignal(signal.SIGINT)
    with InterruptGuard() as interrupt:
        assert not interrupt.agreed()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.agreed()
        assert "another Ctrl-C stops at once" in caplog.text
        with pytest.raises(KeyboardInterrupt):
            interrupt.raise_if_agreed()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_sigint_kills_unless_it_is_the_first_one_relayed(tmp_path):
    child = os.fork()
    if not child:
        with InterruptGuard() as interrupt:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            (tmp_path / "alive").touch()
            interrupt._since -= 1.2
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGINT
    assert (tmp_path / "alive").exists()


def test_a_forked_worker_leaves_sigint_to_the_main_process():
    with InterruptGuard() as interrupt:
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(7 if not interrupt.requested else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_schedulers_signals_may_repeat_and_the_first_is_reported(number):
    with InterruptGuard() as interrupt:
        for sent in (number, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), sent)
        with pytest.raises(Preempted) as caught:
            interrupt.raise_if_agreed()
    assert caught.value.number == number


def test_sigint_comes_before_the_signals_of_schedulers(monkeypatch):
    guard = InterruptGuard()
    for requested, expected in (([0, 15, 2], 2), ([0, 15, 10], 10), ([0, 0], 0)):
        monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda _, seen=requested: seen)
        assert guard.agreed() == expected
