"""What the processes of one run share: a config, a batch, a model and its statistics."""

import inspect
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mls_d2.config.changes import differences
from mls_d2.core.errors import UserError


def check_same_config(cfg: CfgNode) -> None:
    """Compare the configs of all processes (collective).

    Raises:
        UserError: in all of them, if one differs from process 0; names the keys.
    """
    texts = comm.all_gather(cfg.dump())
    for rank, text in enumerate(texts):
        if text != texts[0]:
            listed = "\n  ".join(
                f"{key}: {first!r} and {other!r}"
                for key, first, other in differences(texts[0], text)
            )
            raise UserError(
                f"the configs of processes 0 and {rank} differ:\n  {listed}\n"
                "start every machine with the same config file and options",
                code="different-configs",
            )


def scale_to_processes(cfg: CfgNode, world_size: int) -> CfgNode:
    """Return a config made for ``SOLVER.REFERENCE_WORLD_SIZE`` processes, adapted to W of them.

    Detectron2's rule: a process keeps its images; the learning rate is scaled with the batch, and
    what is counted in iterations with its inverse. Detectron2 logs the changes. A reference of 0
    changes nothing.

    Raises:
        UserError: the batch is not divisible by the number of processes that the config is for.
    """
    processes = cfg.SOLVER.REFERENCE_WORLD_SIZE or world_size
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is not divisible by {processes} "
            f"processes; use a multiple of {processes}",
            code="bad-value",
        )
    return DefaultTrainer.auto_scale_workers(cfg, world_size)


def distribute(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a model for data parallelism, with the main process's tensors everywhere (collective).

    A single process gets the model itself. ``device`` is that of the model; for a GPU without a
    number it is the current one.
    """
    if comm.get_world_size() == 1:
        return model
    # DistributedDataParallel would only broadcast the parameters, not a method's dictionaries.
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)
    options: dict[str, Any] = {}
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        options["device_ids"] = [index]
    # torch 2.13 has renamed it.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(model, **(options | {name: False}))


def share_statistics(model: nn.Module) -> None:
    """Use the BatchNorm statistics of the main process everywhere (collective).

    If a norm is not synchronised, each process has the statistics of its own images, and only those
    of the main process are saved: the model that is measured has to be the saved one.
    """
    if comm.get_world_size() == 1:
        return
    for module in get_bn_modules(model):
        dist.broadcast(module.running_mean, 0)
        dist.broadcast(module.running_var, 0)
