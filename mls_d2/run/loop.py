"""The training loop of both phases: one step, and losses that must stay finite."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from mls_d2.core.errors import UserError
from mls_d2.run.failures import one_line_failures
from mls_d2.run.watchdog import progress


class NonFiniteLossError(UserError):
    """A loss, or a tensor of the model, became NaN or infinite."""

    code = "not-finite"


class FiniteLossGuard:
    """Checks the losses of every step without making the host wait for the accelerator.

    On the CPU a step's losses are checked at once. On an accelerator they are copied to pinned
    memory asynchronously and checked in the next step; call :meth:`flush` before saving.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, list[str], Tensor, torch.cuda.Event] | None = None

    def check(self, losses: Mapping[str, Tensor], iteration: int) -> None:
        """Check the scalar losses of this step (CPU) or of the step before (CUDA).

        Raises:
            NonFiniteLossError: names every term that is not finite.
        """
        if not next(iter(losses.values())).is_cuda:
            _raise_if_bad({name: float(loss.detach()) for name, loss in losses.items()}, iteration)
            return
        self.flush()
        values = torch.stack([value.detach().float() for value in losses.values()])
        host = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._pending = (iteration, list(losses), host, arrived)

    def flush(self) -> None:
        """Check losses that are still on their way from the accelerator.

        Raises:
            NonFiniteLossError: names every term that is not finite.
        """
        if self._pending is None:
            return
        iteration, names, host, arrived = self._pending
        self._pending = None
        arrived.synchronize()
        _raise_if_bad(dict(zip(names, host.tolist(), strict=True)), iteration)


class TrainingLoop(TrainerBase):
    """Detectron2's loop with hooks, and one kind of step for both phases.

    The step: ``compute_losses``, ``zero_grad``, backward of their scaled sum, a check that they are
    finite, ``before_optimizer_step``, the optimizer's step, ``after_optimizer_step``, ``log``. A
    phase overrides :meth:`compute_losses` and, if needed, the last three.

    Args:
        model: what is trained, possibly wrapped for data parallelism.
        batches: endless batches of this process, from the first iteration to run.
        optimizer: of the model's parameters that require gradients.
        amp_dtype: type of autocast; None: no autocast.
        scaler: of the gradients; None: they are not scaled.
        relief: the settings, with their values, that reduce the memory of a step.

    Attributes:
        guard: of the losses.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        amp_dtype: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        relief: str = "",
    ) -> None:
        super().__init__()
        self.model, self.optimizer = model, optimizer
        self.amp_dtype, self.relief = amp_dtype, relief
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)
        self.guard = FiniteLossGuard()
        self._loader = batches
        self._batches: Iterator[Any] = iter(())

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations from ``start_iter`` up to ``max_iter``, which is excluded.

        Raises:
            NonFiniteLossError: a loss is not finite.
            UserError: see :func:`mls_d2.run.failures.one_line_failures`.
        """
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with one_line_failures(self.relief), EventStorage(start_iter) as self.storage:
            self._batches = iter(self._loader)
            try:
                progress.note(start_iter - 1)
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    progress.note(self.iter)
                    self.after_step()
                # Shows hooks in after_train that the training is complete.
                self.iter += 1
            finally:
                progress.note(None)
                self.after_train()

    def run_step(self) -> None:
        """Take one step."""
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start
        losses = self.compute_losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.guard.check(losses, self.iter)
        self.before_optimizer_step()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.after_optimizer_step(batch)
        self.storage.put_scalar("data_time", data_time)
        self.log(losses, total)

    def compute_losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the losses of a batch by name, scalars whose sum is minimised."""
        with self.autocast():
            return self.model(batch)

    def before_optimizer_step(self) -> None:
        """Change gradients, for example."""

    def after_optimizer_step(self, batch: Any) -> None:
        """Update what depends on the parameters; ``batch`` is that of this step."""

    def log(self, losses: Mapping[str, Tensor], total: Tensor) -> None:
        """Put the losses of this step, as means over the processes, into the storage."""
        means = comm.reduce_dict({name: loss.detach().float() for name, loss in losses.items()})
        if comm.is_main_process():
            # One transfer to the host for all values.
            values = torch.stack(list(means.values())).tolist()
            named = dict(zip(means, values, strict=True))
            self.storage.put_scalars(total_loss=sum(values), **named)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context in which the model computes."""
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, self.amp_dtype, enabled=self.amp_dtype is not None)


def _raise_if_bad(values: Mapping[str, float], iteration: int) -> None:
    bad = {name: value for name, value in values.items() if not abs(value) < float("inf")}
    if bad:
        terms = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise NonFiniteLossError(
            f"loss not finite at iteration {iteration}: {terms}; the last checkpoint is from "
            "before. Lower SOLVER.BASE_LR or lengthen the warm-up, then start again with --resume "
            "or in another OUTPUT_DIR"
        )
