"""A transfer run: from a config and initial weights to ``OUTPUT_DIR/results.json``."""

import dataclasses
import datetime
import logging
import os
import re
import time

import detectron2.utils.comm as comm
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from mls_d2.checkpoint.backbone_file import sha256
from mls_d2.checkpoint.detector import load_detector
from mls_d2.checkpoint.initial_weights import RANDOM, WeightsReport, load_initial_weights
from mls_d2.core.errors import UserError
from mls_d2.data.dataset_files import datasets_root
from mls_d2.data.datasets import check_dataset, combined_fingerprint
from mls_d2.report.groups import shown_metrics
from mls_d2.results.schema import RESULTS_FILE, InitialWeights, Result, write_result
from mls_d2.run.environment import (
    collect_device,
    collect_versions,
    command_line,
    resolve_device,
    save_run_metadata,
    seed_everything,
    setup_logging,
)
from mls_d2.run.failures import one_line_failures
from mls_d2.run.folder import RunState, check_no_run, run_state
from mls_d2.run.notify import notify
from mls_d2.run.processes import check_same_config, scale_to_processes
from mls_d2.run.registration import register_all
from mls_d2.run.signals import InterruptGuard
from mls_d2.scenes import read_marker
from mls_d2.transfer.tasks import task_of
from mls_d2.transfer.trainer import Training, memory_relief, train

logger = logging.getLogger(__name__)

PICTURE_FILE = "predictions.png"
_UNREGISTERED = re.compile(r"No object named '(.*?)' found in '(.*?)' registry")


def run_transfer(cfg: CfgNode, *, resume: bool = False) -> None:
    """Fine-tune a model from initial weights, evaluate it and write the results.

    Writes ``metrics.json``, checkpoints, ``results.json`` and ``predictions.png``. If
    ``results.json`` exists already, from the same config and weights, nothing is done.

    Args:
        cfg: a Detectron2 config; ``MODEL.WEIGHTS`` is a backbone file or ``"random"``.
        resume: continue from the last checkpoint in ``OUTPUT_DIR``, if there is one.

    Raises:
        UserError: bad config, data or weights, or an ``OUTPUT_DIR`` that holds another run.
        KeyboardInterrupt: after a signal; a checkpoint has been written.
    """
    cfg = _prepare(cfg)
    inputs = {"MODEL.WEIGHTS": "" if cfg.MODEL.WEIGHTS == RANDOM else sha256(cfg.MODEL.WEIGHTS)}
    state = run_state(cfg, RESULTS_FILE, resume=resume, inputs=inputs)
    comm.synchronize()
    if state is RunState.FINISHED:
        logger.info("already finished: %s", os.path.join(cfg.OUTPUT_DIR, RESULTS_FILE))
        return
    setup_logging(cfg.OUTPUT_DIR)
    seed_everything(cfg)
    model = _build_model(cfg)
    weights = load_initial_weights(model, cfg.MODEL.WEIGHTS, cfg)
    facts = {
        "task": task_of(cfg).name(cfg),
        "method": weights.method,
        "max_iter": cfg.SOLVER.MAX_ITER,
        "synthetic": read_marker(datasets_root()) is not None,
        "inputs": inputs,
    }
    save_run_metadata(cfg.OUTPUT_DIR, cfg, facts)
    check_trained = task_of(cfg).watch(cfg, model)
    with InterruptGuard() as interrupt:
        # Stored with a detector, so that --eval-only can report the origin of its backbone.
        info = {"method": weights.method, **weights.info}
        training = train(cfg, model, interrupt, metadata={"pretrain": info})
    # A signal in the last step: its checkpoint is written, and the evaluation is left to a resume.
    interrupt.raise_if_agreed()
    check_trained()
    _evaluate(cfg, model, weights, training)


def run_evaluation(cfg: CfgNode) -> None:
    """Evaluate a whole model, ``MODEL.WEIGHTS``, and write its metrics to ``results.json``.

    Raises:
        UserError: bad config, data or weights, or an ``OUTPUT_DIR`` that holds a run.
    """
    cfg = _prepare(cfg, training=False)
    check_no_run(cfg.OUTPUT_DIR, RESULTS_FILE)
    if cfg.PRESET != "custom":
        # The weights may be of an unfinished training or of another recipe.
        logger.warning(
            "PRESET is custom, not %s: how these weights were trained is unknown", cfg.PRESET
        )
        cfg.PRESET = "custom"
    comm.synchronize()
    setup_logging(cfg.OUTPUT_DIR)
    seed_everything(cfg)
    model = _build_model(cfg)
    weights = load_detector(model, cfg.MODEL.WEIGHTS)
    _evaluate(cfg, model, weights, Training.none())


def check_transfer(cfg: CfgNode) -> None:
    """Check config and data as one process does before it trains, but not weights and device.

    Raises:
        UserError: bad config or data.
    """
    register_all()
    setup_logging()
    _check_data(cfg, training=True)
    task_of(cfg).check(cfg)
    if cfg.SOLVER.MAX_ITER:
        task_of(cfg).train_loader(cfg)  # which refuses images without anything to learn from


def _prepare(cfg: CfgNode, *, training: bool = True) -> CfgNode:
    """Check all that does not need a model, and set device and batch size."""
    register_all()
    setup_logging()
    check_same_config(cfg)
    cfg = cfg.clone()
    if not training:
        cfg.DATASETS.TRAIN = ()
    _check_data(cfg, training=training)
    if not cfg.MODEL.WEIGHTS:
        raise UserError(
            "MODEL.WEIGHTS is empty; give a backbone file, or MODEL.WEIGHTS random to start from "
            "random weights",
            code="bad-value",
        )
    task_of(cfg).check(cfg)
    half = cfg.SOLVER.AMP.ENABLED  # as asked for: a CPU that lacks bfloat16 turns it off
    resolve_device(cfg)
    world_size = comm.get_world_size()
    if cfg.MODEL.DEVICE == "cpu":
        if half:
            raise UserError(
                "SOLVER.AMP.ENABLED needs a GPU; set it to False on the CPU", code="bad-value"
            )
        if world_size > 1:
            raise UserError(
                "several processes need a GPU each; start one process on the CPU", code="bad-option"
            )
        if cfg.PRESET == "paper":
            logger.warning("the published recipe takes months on a CPU; the quick preset minutes")
    _drop_late_steps(cfg)
    return scale_to_processes(cfg, world_size)


def _check_data(cfg: CfgNode, *, training: bool) -> None:
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty; name the dataset to evaluate on", code="bad-value")
    if comm.get_local_rank() == 0:
        # A failure here ends the other processes, too.
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            # Without a training, the evaluation finds a damaged test image as early.
            check_dataset(name, test=training and name in cfg.DATASETS.TEST)


def _drop_late_steps(cfg: CfgNode) -> None:
    # Detectron2 refuses steps at the very end, which a shortened schedule may have.
    steps = tuple(step for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER)
    if steps != tuple(cfg.SOLVER.STEPS):
        logger.warning("SOLVER.STEPS beyond MAX_ITER are removed, which leaves %s", steps)
        cfg.SOLVER.STEPS = steps


def _build_model(cfg: CfgNode) -> nn.Module:
    try:
        model = build_model(cfg)
    except KeyError as error:
        match = _UNREGISTERED.search(str(error))
        if not match:
            raise
        raise UserError(
            f"no component '{match[1]}' in Detectron2's registry {match[2]}. Import a custom "
            "component first; those of this project are registered by "
            "mls_d2.run.registration.register_all(), which its tools call",
            code="unknown-name",
        ) from None
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    names = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME
    logger.info("%s with %s, %.1f M parameters", *names, millions)
    return model


def _evaluate(cfg: CfgNode, model: nn.Module, weights: WeightsReport, training: Training) -> None:
    start = time.perf_counter()
    with one_line_failures(memory_relief(cfg)):
        metrics = task_of(cfg).evaluate(cfg, model)
    seconds = training.seconds + time.perf_counter() - start
    if comm.is_main_process():
        path = os.path.join(cfg.OUTPUT_DIR, RESULTS_FILE)
        training = dataclasses.replace(training, seconds=seconds)
        result = _result(cfg, metrics, weights, training)
        write_result(path, result)
        logger.info("wrote %s", path)
        _write_picture(cfg, model)
        _notify(path, result)
    comm.synchronize()


def _write_picture(cfg: CfgNode, model: nn.Module) -> None:
    path = os.path.join(cfg.OUTPUT_DIR, PICTURE_FILE)
    try:
        task_of(cfg).write_picture(path, model, cfg)
    except Exception as error:
        # The result exists: a missing picture must not fail the run.
        logger.warning("%s was not drawn: %s: %s", path, type(error).__name__, error)


def _notify(path: str, result: Result) -> None:
    names = [name.partition(".") for name in shown_metrics([result])]
    values = [f"{part} {name} {result.metrics[part][name]:.2f}" for part, _, name in names]
    facts = {"task": result.task, "method": result.method, "result": ", ".join(values)}
    notify(**facts, folder=os.path.dirname(path), file=path)


def _result(
    cfg: CfgNode, metrics: dict[str, dict[str, float]], weights: WeightsReport, training: Training
) -> Result:
    now = datetime.datetime.now(datetime.timezone.utc)
    return Result(
        method=weights.method,
        backbone=InitialWeights(file=weights.file, sha256=weights.sha256, info=weights.info),
        task=task_of(cfg).name(cfg),
        preset=cfg.PRESET,
        metrics=metrics,
        seed=cfg.SEED,
        dataset=combined_fingerprint(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST),
        device=collect_device(cfg.MODEL.DEVICE),
        config=cfg.dump(),
        versions=collect_versions(),
        wall_time_s=training.seconds,
        peak_memory_mb=training.peak_mb,
        images_per_s=training.images_per_s,
        finished=now.isoformat(timespec="seconds"),
        command=command_line(),
    )
