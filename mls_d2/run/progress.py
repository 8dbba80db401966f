"""The progress line of a training run, and the files of its curves."""

import datetime
import logging
import os
from collections.abc import Sequence

from detectron2.utils.events import (
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

logger = logging.getLogger(__name__)

_WINDOW = 20
METRICS_FILE = "metrics.json"


class ProgressPrinter(EventWriter):
    """Logs one line: iteration, losses, rate, data wait, memory, learning rate, remaining time.

    ``show`` names further scalars to print.
    """

    def __init__(self, max_iter: int, show: Sequence[str] = ()) -> None:
        self._max_iter = max_iter
        self._show = tuple(show)

    def write(self) -> None:
        """Log the line for the iteration of the current storage."""
        storage = get_event_storage()
        if storage.iter >= self._max_iter:
            # Called once more after the run, with nothing new.
            return
        # The median of a value of every step, the value itself of a rarer one.
        known = storage.latest_with_smoothing_hint(_WINDOW)
        names = [name for name in known if "loss" in name]
        names += [name for name in self._show if name in known]
        values = [f"{name} {known[name][0]:.4g}" for name in names]
        place = f"{storage.iter + 1}/{self._max_iter}"
        logger.info("%s", "  ".join([place, *values, *self._rates(storage)]))

    def _rates(self, storage: EventStorage) -> list[str]:
        known = storage.histories()
        parts = []
        if "lr" in known:
            parts.append(f"lr {known['lr'].latest():.4g}")
        if "images_per_s" in known:
            parts.append(f"{known['images_per_s'].median(_WINDOW):.1f} img/s")
        if "data_time" in known:
            parts.append(f"data wait {known['data_time'].avg(_WINDOW) * 1000:.0f} ms")
        if "peak_memory_mb" in known:
            parts.append(f"{known['peak_memory_mb'].latest():.0f} MB")
        if "time" in known:
            seconds = known["time"].median(1000) * (self._max_iter - storage.iter - 1)
            parts.append(f"ETA {datetime.timedelta(seconds=int(seconds))}")
        return parts


def build_writers(output_dir: str, max_iter: int, *, show: Sequence[str] = ()) -> list[EventWriter]:
    """Return writers for the terminal, ``output_dir/metrics.json`` and TensorBoard."""
    return [
        ProgressPrinter(max_iter, show),
        JSONWriter(os.path.join(output_dir, METRICS_FILE)),
        TensorboardXWriter(output_dir),
    ]
