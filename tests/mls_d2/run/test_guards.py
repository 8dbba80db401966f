"""Losses, signals and changed configs stop a run in good order."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mls_d2.run.failures import one_line_failures
from mls_d2.run.loop import FiniteLossGuard, NonFiniteLossError
from mls_d2.run.processes import check_same_config
from mls_d2.run.signals import InterruptGuard

from mls_d2.config.defaults import get_cfg
from mls_d2.core.errors import Preempted, UserError


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_only_the_terms_that_are_not_finite_are_named(value):
    losses = {"loss_good": torch.tensor(1.0), "loss_bad": torch.tensor(value)}
    with pytest.raises(NonFiniteLossError, match=r"iteration 7: loss_bad = ") as caught:
        check_finite(losses, 7)
    assert "loss_good" not in str(caught.value)


def test_large_finite_losses_pass():
    check_finite({"loss": torch.tensor(3e38)}, 0)
    check_finite({"loss": torch.tensor(-1e30, requires_grad=True)}, 0)


def test_the_guard_raises_in_the_same_step_on_the_cpu():
    guard = FiniteLossGuard()
    guard.check({"loss": torch.tensor(1.0)}, 0)
    with pytest.raises(NonFiniteLossError, match="iteration 1"):
        guard.check({"loss": torch.tensor(float("nan"))}, 1)
    guard.flush()


@pytest.mark.gpu
def test_the_guard_raises_one_step_later_on_a_gpu():
    guard = FiniteLossGuard()
    guard.check({"loss": torch.tensor(float("nan"), device="cuda")}, 4)
    with pytest.raises(NonFiniteLossError, match="iteration 4"):
        guard.check({"loss": torch.tensor(1.0, device="cuda")}, 5)
    guard.check({"loss": torch.tensor(float("inf"), device="cuda")}, 6)
    with pytest.raises(NonFiniteLossError, match="iteration 6"):
        guard.flush()


def test_the_first_signal_is_noted_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with InterruptGuard() as interrupt:
        assert not interrupt.agreed()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.agreed()
    assert signal.getsignal(signal.SIGINT) is before


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
        # The handler's message shows that the first signal was taken.
        assert "another Ctrl-C stops at once" in process.stderr.readline()
        # Not so soon that it may be the first one, passed on by a launcher.
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


def test_train_guarded_hides_the_traceback_of_user_errors_only(caplog):
    loop_logger = logging.getLogger("detectron2.engine.train_loop")

    def fail_with(error):
        def train():
            try:
                raise error
            except Exception:
                loop_logger.exception("Exception during training:")
                raise

        return train

    # Detectron2's logging set-up, which other tests may have called, cuts propagation.
    loop_logger.addHandler(caplog.handler)
    try:
        with pytest.raises(UserError):
            train_guarded(fail_with(UserError("bad")), relief="")
        assert not caplog.records
        with pytest.raises(ValueError, match="bug"):
            train_guarded(fail_with(ValueError("bug")), relief="")
        assert caplog.records
    finally:
        loop_logger.removeHandler(caplog.handler)


def test_memory_that_does_not_suffice_is_a_user_error_with_numbers_and_what_to_change():
    # An exbibyte, which no machine gives.
    with pytest.raises(UserError, match=r"tried to allocate 1152921504606846976 .*less: CROP_SIZE"):
        train_guarded(lambda: torch.empty(2**60, dtype=torch.uint8), relief="CROP_SIZE (224)")
    with pytest.raises(RuntimeError, match="shapes"):
        train_guarded(lambda: torch.ones(2, 3) @ torch.ones(2, 3), relief="CROP_SIZE (224)")


@pytest.mark.gpu
def test_memory_of_the_gpu_that_does_not_suffice_is_a_user_error_with_its_size():
    with pytest.raises(UserError, match=r"GiB in all, .* at its peak\)\. .*CROP_SIZE"):
        train_guarded(lambda: torch.empty(2**50, device="cuda"), relief="CROP_SIZE (224)")


def test_processes_with_different_configs_are_named_with_the_keys(monkeypatch):
    cfg, other = get_cfg(), get_cfg()
    other.SOLVER.BASE_LR = 0.5
    check_same_config(cfg)
    texts = [cfg.dump(), cfg.dump(), other.dump()]
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda text: texts)
    with pytest.raises(UserError) as caught:
        check_same_config(cfg)
    first, keys, advice = str(caught.value).splitlines()
    assert "processes 0 and 2 differ" in first
    assert keys.strip() == "SOLVER.BASE_LR: 0.001 and 0.5"
    assert "same config file" in advice


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_schedulers_signals_may_repeat_and_say_which_they_were(number):
    with InterruptGuard() as interrupt:
        for sent in (number, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), sent)
        with pytest.raises(Preempted) as caught:
            interrupt.raise_if_agreed()
    assert caught.value.number == number


def test_people_go_before_schedulers(monkeypatch):
    guard = InterruptGuard()
    for requested, expected in (([0, 15, 2], 2), ([0, 15, 10], 10), ([0, 0], 0)):
        monkeypatch.setattr(
            "detectron2.utils.comm.all_gather", lambda _, requested=requested: requested
        )
        assert guard.agreed() == expected
