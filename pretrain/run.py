"""A pretraining run from config to ``OUTPUT_DIR/backbone.pth``."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from fvcore.common.param_scheduler import CosineParamScheduler

from mls_d2.checkpoint.backbone_file import can_be_written, write_backbone
from mls_d2.checkpoint.hub import CARD_FILE
from mls_d2.checkpoint.reading import read_object
from mls_d2.config.changes import config_changes
from mls_d2.core.errors import UserError
from mls_d2.core.files import sha256_of, write_bytes
from mls_d2.run.checkpointer import AtomicCheckpointer
from mls_d2.run.environment import (
    collect_versions,
    resolve_device,
    save_run_metadata,
    seed_everything,
    setup_logging,
)
from mls_d2.run.folder import RunState, check_inputs, run_state
from mls_d2.run.hooks import SeedSteps, Throughput, shared_hooks
from mls_d2.run.notify import notify
from mls_d2.run.processes import check_same_config, distribute, scale_to_processes
from mls_d2.run.progress import METRICS_FILE
from mls_d2.run.registration import register_all
from mls_d2.run.signals import InterruptGuard
from pretrain.batchnorm import set_up_batchnorm
from pretrain.checks import check_config
from pretrain.data import DevicePrefetcher, ImageReport, build_loader, image_source
from pretrain.encoder import Encoder
from pretrain.label_quality import build_label_quality
from pretrain.methods import Method, build_method, method_class
from pretrain.monitors import Monitors
from pretrain.online_eval import build_online_eval
from pretrain.optim import build_optimizer
from pretrain.schedule import WarmupThen
from pretrain.sources import ImageSource
from pretrain.trainer import PretrainTrainer, ScalarMeans
from pretrain.views import augment_from_config

logger = logging.getLogger(__name__)

BACKBONE_FILE = "backbone.pth"
# Of the names in pretraining checkpoints: 2 has encoder.* and momentum_encoder.*.
LAYOUT = 2
# What Detectron2's rule scales too, and pretraining does not read.
_UNREAD = ("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "TEST.EVAL_PERIOD")
_SHOWN = (
    "nce_accuracy",
    "positive_similarity",
    "negative_similarity",
    "feature_std",
    "embedding_std",
    "dictionary_rank",
)


@dataclass(frozen=True)
class Length:
    """Length of a run: steps per pass over the data, and in all."""

    iters_per_epoch: int
    max_iter: int


def pretrain(cfg: CfgNode, *, resume: bool = False) -> str:
    """Run pretraining and return the path of the backbone file.

    Args:
        cfg: see :mod:`mls_d2.config`.
        resume: continue from the newest checkpoint in ``OUTPUT_DIR``, if there is one.

    Raises:
        UserError: bad values, missing data, an ``OUTPUT_DIR`` that holds another run.
        KeyboardInterrupt: interrupted, or Preempted by a scheduler; a checkpoint has been written.
    """
    register_all()
    setup_logging()
    check_same_config(cfg)
    asked = cfg.dump()
    cfg = scale_to_processes(cfg, comm.get_world_size())
    scaled = config_changes(asked, cfg.dump(), ignore=_UNREAD)
    check_config(cfg)
    resolve_device(cfg)
    target = os.path.join(cfg.OUTPUT_DIR, BACKBONE_FILE)
    state = run_state(cfg, BACKBONE_FILE, resume=resume)
    comm.synchronize()
    if state is RunState.FINISHED:
        logger.info("already finished: %s", target)
        return target
    source = image_source(cfg.DATASETS.TRAIN)
    _finish_first_stage(cfg, source, resume=resume)
    cfg, inputs = _with_inputs(cfg, source)
    num_images = int(source.counts.sum())
    length = run_length(cfg, num_images)
    facts: dict[str, Any] = {
        "task": "pretraining",
        "method": cfg.PRETRAIN.METHOD,
        "num_images": num_images,
        "max_iter": length.max_iter,
        "synthetic": source.synthetic,
        "scaled": scaled,
        "inputs": inputs,
    }
    if state is RunState.RESUME:
        check_inputs(cfg, facts["inputs"])
    _open_folder(cfg, facts)
    with InterruptGuard() as interrupt:
        trainer, start = _build_trainer(cfg, source, length, interrupt)
        plan = (num_images, length.max_iter, cfg.SOLVER.IMS_PER_BATCH, length.iters_per_epoch)
        text = "%s on %d images: %d steps of %d, %d per epoch"
        logger.info(text, cfg.PRETRAIN.METHOD, *plan)
        trainer.train(start, length.max_iter)
        trainer.images.summarise()
        if comm.is_main_process():
            info = backbone_info(cfg, length, synthetic=source.synthetic)
            _write_files(Path(target), trainer.method.export(), info)
    if comm.is_main_process():
        method = cfg.PRETRAIN.METHOD
        notify(task="pretraining", method=method, folder=cfg.OUTPUT_DIR, file=target)
    comm.synchronize()
    interrupt.raise_if_agreed()
    return target


def _write_files(target: Path, tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
    """Write the backbone file and its model card."""
    from mls_d2.hub.card import model_card  # takes the report's libraries along: a second

    write_backbone(str(target), tensors, info)
    card = model_card(target.name, info, digests=[sha256_of(str(target))], run=target.parent)
    write_bytes(target.with_name(CARD_FILE), card.encode())
    logger.info("wrote %s", target)


def _finish_first_stage(cfg: CfgNode, source: ImageSource, *, resume: bool) -> None:
    """Run what the method needs to be finished before, if anything.

    Raises:
        UserError: it ran on other images, or see :func:`pretrain`.
    """
    first = method_class(cfg).first_stage(cfg)
    if first is not None:
        pretrain(first, resume=resume)
        check_inputs(first, {"DATASETS.TRAIN": source.digest()})
        setup_logging()  # no longer to the folder of the first stage


def _with_inputs(cfg: CfgNode, source: ImageSource) -> tuple[CfgNode, dict[str, str]]:
    """Return the config with the paths of the method's files, and the digests of all inputs.

    Raises:
        UserError: files that the method needs do not fit the images, or cannot be made.
    """
    digests = {"DATASETS.TRAIN": source.digest()}
    cfg = cfg.clone()
    for key, (path, digests[key]) in method_class(cfg).inputs(cfg, source).items():
        section, leaf = key.split(".")
        cfg[section][leaf] = path
    return cfg, digests


def _open_folder(cfg: CfgNode, facts: dict[str, Any]) -> None:
    """Begin to log to ``OUTPUT_DIR``, and write there what the run is made with."""
    setup_logging(cfg.OUTPUT_DIR)
    seed_everything(cfg)
    save_run_metadata(cfg.OUTPUT_DIR, cfg, facts)
    for line in facts["scaled"]:
        logger.info("for %d processes: %s", comm.get_world_size(), line)
    comm.synchronize()


def run_length(cfg: CfgNode, num_images: int) -> Length:
    """Return the number of steps; the images that do not fill a batch are left out of each epoch.

    Raises:
        UserError: fewer images than a batch.
    """
    per_epoch = num_images // cfg.SOLVER.IMS_PER_BATCH
    if per_epoch == 0:
        raise UserError(
            f"{num_images} images do not fill one batch of SOLVER.IMS_PER_BATCH "
            f"{cfg.SOLVER.IMS_PER_BATCH}",
            code="bad-value",
        )
    return Length(per_epoch, max(1, round(cfg.PRETRAIN.EPOCHS * per_epoch)))


def backbone_info(cfg: CfgNode, length: Length, *, synthetic: bool) -> dict[str, Any]:
    """Return the metadata of a backbone file, which checkpoints have too.

    Its epochs are those of all stages.
    """
    return {
        "method": cfg.PRETRAIN.METHOD,
        "preset": cfg.PRESET,
        "dataset": list(cfg.DATASETS.TRAIN),
        "synthetic": synthetic,
        "epochs": _epochs_before(cfg) + length.max_iter / length.iters_per_epoch,
        "iterations": length.max_iter,
        "config": cfg.dump(),
        "versions": collect_versions(),
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "input_format": cfg.INPUT.FORMAT,
        "seed": cfg.SEED,
    }


def _epochs_before(cfg: CfgNode) -> float:
    first = method_class(cfg).first_stage(cfg)
    return first.PRETRAIN.EPOCHS if first is not None else 0.0


def memory_relief(cfg: CfgNode, world_size: int) -> str:
    """Return the settings, with their values, that reduce the memory of a step."""
    share = cfg.SOLVER.IMS_PER_BATCH // world_size
    return (
        f"SOLVER.IMS_PER_BATCH ({cfg.SOLVER.IMS_PER_BATCH}, {share} per process), "
        f"SOLVER.AMP.ENABLED ({cfg.SOLVER.AMP.ENABLED}), "
        f"PRETRAIN.AUGMENT.CROP_SIZE ({cfg.PRETRAIN.AUGMENT.CROP_SIZE})"
    )


def _build_trainer(
    cfg: CfgNode, source: ImageSource, length: Length, interrupt: InterruptGuard
) -> tuple[PretrainTrainer, int]:
    """Build the trainer, load the newest checkpoint, and return it with the first iteration."""
    device = torch.device(cfg.MODEL.DEVICE)
    rank, world_size = comm.get_rank(), comm.get_world_size()
    method = method_on_device(cfg, device)
    optimizer = build_optimizer(cfg, method)
    amp_dtype = getattr(torch, cfg.PRETRAIN.AMP_DTYPE) if cfg.SOLVER.AMP.ENABLED else None
    scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype is torch.float16)
    means = ScalarMeans()
    state: dict[str, Any] = {
        "optimizer": optimizer,
        "scheduler": _schedule(cfg, optimizer, length),
        "throughput": Throughput(cfg.SOLVER.IMS_PER_BATCH),
    }
    checkpointer = AtomicCheckpointer(
        method,
        cfg.OUTPUT_DIR,
        metadata=_checkpoint_metadata(cfg, length, synthetic=source.synthetic),
        grad_scaler=scaler,
        means=means,
        **state,
    )
    _refuse_old_layout(checkpointer)
    start = checkpointer.first_iteration()
    loader = build_loader(cfg, source, start=start, rank=rank, world_size=world_size)
    trainer = PretrainTrainer(
        distribute(method, device),
        DevicePrefetcher(loader, device) if device.type == "cuda" else loader,
        optimizer,
        augment_from_config(cfg, device),
        iters_per_epoch=length.iters_per_epoch,
        images=ImageReport(int(source.counts.sum()), cfg.PRETRAIN.MAX_BROKEN_SHARE),
        log_period=cfg.PRETRAIN.LOG_PERIOD,
        amp_dtype=amp_dtype,
        scaler=scaler,
        label_quality=build_label_quality(cfg, method),
        means=means,
        relief=memory_relief(cfg, world_size),
    )
    trainer.register_hooks(
        [
            SeedSteps(cfg.SEED),
            *shared_hooks(
                cfg,
                interrupt=interrupt,
                checkpointer=checkpointer,
                guard=trainer.guard,
                max_iter=length.max_iter,
                log_period=cfg.PRETRAIN.LOG_PERIOD,
                keep_checkpoints=cfg.PRETRAIN.KEEP_CHECKPOINTS,
                permanent_period=round(cfg.PRETRAIN.PERMANENT_PERIOD * length.iters_per_epoch),
                show=_SHOWN,
                before_saving=_measurements(cfg, method, length),
                **state,
            ),
        ]
    )
    return trainer, start


def _schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer, length: Length) -> LRMultiplier:
    """Return a cosine to 0 after a linear warm-up."""
    warmup = cfg.PRETRAIN.WARMUP_EPOCHS / cfg.PRETRAIN.EPOCHS
    multiplier = WarmupThen(CosineParamScheduler(1, 0), warmup)
    return LRMultiplier(optimizer, multiplier, length.max_iter)


def _checkpoint_metadata(cfg: CfgNode, length: Length, *, synthetic: bool) -> dict[str, Any]:
    return {
        "kind": "pretraining checkpoint",
        "method": cfg.PRETRAIN.METHOD,
        "layout": LAYOUT,
        "epochs_before": _epochs_before(cfg),
        "pretrain": backbone_info(cfg, length, synthetic=synthetic),
    }


def _refuse_old_layout(checkpointer: AtomicCheckpointer) -> None:
    """Refuse to resume what a version with other names of the encoder has written.

    Raises:
        UserError: the newest checkpoint is such a one.
    """
    try:
        paths = checkpointer.checkpoints()[:1]
        metadata = [read_object(path).get("metadata", {}) for path in paths]
    except UserError:  # Damaged: resuming tries the one before it.
        return
    if metadata and metadata[0].get("layout") != LAYOUT:
        raise UserError(
            f"'{paths[0]}' was written by an earlier version, whose names of the encoder differ. "
            "Resume with that version, or start in another OUTPUT_DIR; tools/convert.py makes a "
            "backbone file of it",
            code="old-checkpoint",
        )


def _check_export(method: Method) -> None:
    """Refuse a method whose export the transfer phase does not load, before the first step.

    Raises:
        UserError: names a tensor.
    """
    foreign = [name for name in method.export() if not can_be_written(name)]
    if foreign:
        raise UserError(
            f"the backbone cannot be exported: '{foreign[0]}' (and {len(foreign) - 1} more) is no "
            "name of Detectron2's ResNet. Set MODEL.BACKBONE.NAME to build_resnet_backbone; the "
            "transfer configs add an FPN",
            code="bad-value",
        )


def method_on_device(cfg: CfgNode, device: torch.device) -> Method:
    """Return the method on its device, with the BatchNorm that the config asks for.

    Raises:
        UserError: what it exports is no backbone that the transfer phase loads.
    """
    method, shuffle = set_up_batchnorm(
        build_method(cfg), cfg, rank=comm.get_rank(), world_size=comm.get_world_size()
    )
    _check_export(method)
    method.shuffle = shuffle if method.has_keys else None
    if cfg.PRETRAIN.COMPILE:
        for encoder in method.children():
            if isinstance(encoder, Encoder):
                encoder.backbone.compile()
    return method.to(device=device, memory_format=torch.channels_last)


def _measurements(cfg: CfgNode, method: Method, length: Length) -> list[HookBase]:
    """Return the evaluation during training, and the monitors of the main process."""
    evaluation = build_online_eval(cfg, method.encoder.backbone, length.iters_per_epoch)
    if not comm.is_main_process():
        return [*evaluation]
    monitors = Monitors(
        candidates=method.candidates(cfg.SOLVER.IMS_PER_BATCH),
        log_period=cfg.PRETRAIN.LOG_PERIOD,
        max_iter=length.max_iter,
        metrics_file=os.path.join(cfg.OUTPUT_DIR, METRICS_FILE),
    )
    return [*evaluation, monitors]
