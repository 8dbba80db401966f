"""What only a GPU can show: that the host never waits for it."""

import itertools

import pytest
import torch
from detectron2.utils.events import EventStorage

from mls_d2.config.loading import load_cfg
from mls_d2.run.environment import resolve_device
from pretrain.data import DevicePrefetcher, ImageReport, ViewBatch
from pretrain.methods import METHODS, build_method
from pretrain.optim import build_optimizer
from pretrain.trainer import PretrainTrainer
from pretrain.views import augment_from_config

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


@pytest.mark.parametrize("method", METHODS.names())
def test_no_step_between_two_entries_of_the_log_waits_for_the_device(method, tiny, request):
    config = str(request.config.rootpath / "pretrain/configs/mls_coco_400ep.yaml")
    values = tiny | {
        "PRETRAIN.METHOD": method,
        "MODEL.DEVICE": "cuda",
        "PRETRAIN.BATCH_NORM": "sync",
    }
    cfg = load_cfg(config, [word for pair in values.items() for word in pair])
    resolve_device(cfg)
    device = torch.device("cuda")
    model = build_method(cfg).to(device).to(memory_format=torch.channels_last)
    trainer = PretrainTrainer(
        model,
        iter(DevicePrefetcher(batches(), device)),
        build_optimizer(cfg, model),
        augment_from_config(cfg, device),
        iters_per_epoch=10,
        images=ImageReport(100, 0.0),
        log_period=100,
        amp_dtype=torch.bfloat16,
    )
    trainer.max_iter = 6
    with EventStorage() as trainer.storage:
        for trainer.iter in range(3):  # what is set up once may wait
            trainer.run_step()
        torch.cuda.set_sync_debug_mode("error")  # whatever waits raises
        try:
            for trainer.iter in range(3, 6):
                trainer.run_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(next(model.parameters())).all()
