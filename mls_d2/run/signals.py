"""Signals that ask a run to stop are noted, so that it can end after the step with a checkpoint."""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

import detectron2.utils.comm as comm

from mls_d2.core.errors import Preempted

logger = logging.getLogger(__name__)

# From people, and from schedulers: the end (Slurm, Kubernetes), `sbatch --signal`, and submitit.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# A Ctrl-C reaches a process from the terminal and again from its launcher, within seconds.
_RELAY_S = 1.0


class InterruptGuard:
    """Context in which signals that ask for a stop are only noted, so that the step can end.

    These are SIGINT and, from schedulers, SIGTERM, SIGUSR1 and SIGUSR2. A second SIGINT kills at
    once. Schedulers' signals may come repeatedly, from a scheduler and from a launcher that relays
    them; SIGKILL is the way to kill.

    Enter it before data loader workers are started, so that they leave the signals to the main
    process.

    Attributes:
        requested: the first signal that came; 0 for none.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._since = 0.0
        self._pid = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptGuard:
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """Return the signal that asked any process of the run to stop, or 0 (collective).

        SIGINT, which people send, comes before those of schedulers.
        """
        return min(filter(None, comm.all_gather(self.requested)), default=0)

    def raise_if_agreed(self) -> None:
        """Stop all processes if one was asked to (collective).

        Raises:
            Preempted: asked by a scheduler.
            KeyboardInterrupt: asked by SIGINT.
        """
        number = self.agreed()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number:
            raise Preempted(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked data loader worker: it ends when the main process stops it.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if not self.requested:
            self.requested, self._since = number, time.monotonic()
            logger.warning(
                "%s: a checkpoint is written after this step; another Ctrl-C stops at once",
                signal.Signals(number).name,
            )
        elif number == signal.SIGINT and time.monotonic() - self._since > _RELAY_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
