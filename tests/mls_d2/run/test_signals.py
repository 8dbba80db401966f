"""Signals are noted until the step has ended, and processes agree on them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mls_d2.core.errors import Preempted
from mls_d2.run.signals import InterruptGuard


def test_the_first_signal_is_noted_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with InterruptGuard() as interrupt:
        assert not interrupt.agreed()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.agreed()
        with pytest.raises(KeyboardInterrupt):
            interrupt.raise_if_agreed()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_the_second_signal_kills_at_once():
    program = (
        "import time\n"
        "from mls_d2.run.signals import InterruptGuard\n"
        "with InterruptGuard():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        # The handler's message shows that the first signal was received.
        assert "another Ctrl-C stops at once" in process.stderr.readline()
        # Not so soon that it may be the first one, relayed by a launcher.
        time.sleep(1.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == -signal.SIGINT
    finally:
        process.kill()
        process.communicate()


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
