"""Weights & Biases and MLflow as writers of Detectron2, beside ``metrics.json`` and TensorBoard."""

import abc
import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.utils.events import EventWriter, get_event_storage

from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import write_bytes

logger = logging.getLogger(__name__)

_WINDOW = 20


class Tracker(EventWriter, abc.ABC):
    """Sends the scalars that are new since the last time. A failure costs them, not the run.

    Args:
        folder: of the run. Its name is that of the tracked run, whose id is kept there, so that a
            resumed run continues it.
        config: of the run.

    Raises:
        UserError: the package is not installed.
    """

    package: str  # to import and to install

    def __init__(self, folder: str, config: Mapping[str, Any]) -> None:
        try:
            self.api = importlib.import_module(self.package)
        except ImportError:
            raise UserError(
                f"TRACKERS has '{self.package}', which is not installed: pip install "
                f"{self.package}, or leave it out",
                code="missing-package",
            ) from None
        self._last = -1
        kept = Path(folder, f"{self.package}_run.txt")
        known = kept.read_text(encoding="utf-8") if kept.is_file() else None
        write_bytes(kept, self.start(Path(folder).resolve(), config, known).encode())

    @abc.abstractmethod
    def start(self, folder: Path, config: Mapping[str, Any], known: str | None) -> str:
        """Start a run, or continue that of the id ``known``, and return its id."""

    @abc.abstractmethod
    def send(self, scalars: Mapping[str, float], step: int) -> None:
        """Send the scalars of one step."""

    def write(self) -> None:
        """Send what is new in the current storage: means over the last values, as elsewhere."""
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(_WINDOW)
        new = {name: value for name, (value, step) in latest.items() if step > self._last}
        self._last = max([self._last, *(step for _, step in latest.values())])
        try:
            if new:
                self.send(new, storage.iter)
        except Exception as error:
            logger.warning("%s did not take step %d: %s", self.package, storage.iter, error)


class WandbTracker(Tracker):
    """Weights & Biases; its variables, such as ``WANDB_PROJECT`` and ``WANDB_MODE``, apply."""

    package = "wandb"

    def start(self, folder: Path, config: Mapping[str, Any], known: str | None) -> str:
        """See :class:`Tracker`."""
        self._run = self.api.init(
            name=folder.name, dir=str(folder), config=dict(config), id=known, resume="allow"
        )
        return str(self._run.id)

    def send(self, scalars: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MLflowTracker(Tracker):
    """MLflow; its variables, such as ``MLFLOW_TRACKING_URI``, apply."""

    package = "mlflow"

    def start(self, folder: Path, config: Mapping[str, Any], known: str | None) -> str:
        """See :class:`Tracker`."""
        run = self.api.start_run(run_id=known, run_name=folder.name)
        self.api.log_dict(dict(config), "config.yaml")
        return str(run.info.run_id)

    def send(self, scalars: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        self.api.log_metrics(dict(scalars), step=step)

    def close(self) -> None:
        """End the run."""
        self.api.end_run()


TRACKERS = {tracker.package: tracker for tracker in (WandbTracker, MLflowTracker)}


def build_trackers(names: Sequence[str], folder: str, config: str) -> list[EventWriter]:
    """Return the trackers of those names, for the run in ``folder`` with a config as YAML.

    Raises:
        UserError: an unknown name, or a package that is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            message = f"TRACKERS has '{name}'; {nearest(name, TRACKERS)}"
            raise UserError(message, code="unknown-name")
    return [TRACKERS[name](folder, yaml.safe_load(config)) for name in names]
