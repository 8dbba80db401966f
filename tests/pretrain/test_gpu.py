"""What only a GPU can show: that the host never waits for it."""

import itertools

import pytest
import torch
from detectron2.utils.events import EventStorage

from pretrain.data import DevicePrefetcher, ViewBatch
from pretrain.methods import METHODS
from tests.pretrain.quick_step import WAITS, quick_batch, quick_cfg, quick_trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def batches():
    generator = torch.Generator().manual_seed(0)
    for index in itertools.count():
        shape = (2, 4, 64, 64, 3)
        views = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        rows = torch.arange(4 * index, 4 * index + 4)
        sizes = torch.full((4, 2), 64)
        yield ViewBatch([views], torch.zeros(2, 4, 5), sizes, rows, {}, [], []).pin_memory()


def test_batches_are_copied_ahead_and_stay_what_they_were():
    device = torch.device("cuda")
    ahead = iter(DevicePrefetcher(itertools.islice(batches(), 5), device))
    copied = [batch.groups[0].cpu() for batch in ahead]
    expected = [batch.groups[0] for batch in itertools.islice(batches(), 5)]
    assert len(copied) == 5
    assert all(torch.equal(a, b) for a, b in zip(copied, expected, strict=True))


@pytest.mark.parametrize("name", [name for name in METHODS.names() if name not in WAITS])
def test_no_step_between_two_entries_of_the_log_waits_for_the_device(name):
    device = torch.device("cuda", 0)
    trainer = quick_trainer(quick_cfg(name), device)
    trainer.amp_dtype = torch.bfloat16
    pinned = (quick_batch(quick_cfg(name)).pin_memory() for _ in itertools.count())
    trainer._batches = iter(DevicePrefetcher(pinned, device))
    with EventStorage() as trainer.storage:
        for trainer.iter in range(3):  # what is set up once may wait
            trainer.run_step()
        torch.cuda.set_sync_debug_mode("error")  # whatever waits raises
        try:
            for trainer.iter in range(3, 6):
                trainer.run_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(next(trainer.method.parameters())).all()
