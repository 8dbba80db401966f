"""The values that pretraining accepts, one rule a key."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.utils import comm

from mls_d2.config.rules import (
    Rule,
    above,
    are_numbers,
    at_least,
    below_one,
    bounds,
    check_rules,
    one_of,
    optional,
    within,
)
from pretrain.batchnorm import check_batchnorm
from pretrain.data import DECODING
from pretrain.methods import method_class
from pretrain.optim import OPTIMIZERS

AMP_DTYPES = ("auto", "bfloat16", "float16")
# Those that Detectron2's ResNet has.
DEPTHS = (18, 34, 50, 101, 152)


def is_device(name: str) -> bool:
    """Whether torch has a device of that name, which exists here if there are GPUs."""
    try:
        index = torch.device(name).index or 0
    except RuntimeError:
        return False
    gpus = torch.cuda.device_count()
    return not name.startswith("cuda") or not gpus or index < gpus


SHARE = within(1)
SHARE_OR_NONE = optional(SHARE, "as in first views")
RULES: dict[str, Rule] = {
    "PRETRAIN.OPTIMIZER": one_of(OPTIMIZERS),
    "PRETRAIN.EPOCHS": above(0),
    "PRETRAIN.LOG_PERIOD": at_least(1),
    "PRETRAIN.KEEP_CHECKPOINTS": at_least(1),
    "PRETRAIN.PERMANENT_PERIOD": at_least(0),
    "PRETRAIN.MAX_BROKEN_SHARE": SHARE,
    "PRETRAIN.SHARD_WINDOW": at_least(1),
    "PRETRAIN.PROPOSALS_SIDE": at_least(0, " pixels"),
    "PRETRAIN.DECODE": one_of(DECODING),
    "PRETRAIN.AMP_DTYPE": one_of(AMP_DTYPES),
    "PRETRAIN.AUGMENT.CROP_SIZE": at_least(32, " pixels"),
    "PRETRAIN.AUGMENT.CROP_SCALE": bounds(1),
    "PRETRAIN.AUGMENT.LOCAL_CROPS": at_least(0),
    "PRETRAIN.AUGMENT.LOCAL_SIZE": at_least(32, " pixels"),
    "PRETRAIN.AUGMENT.LOCAL_SCALE": bounds(1),
    "PRETRAIN.AUGMENT.FLIP_PROB": SHARE,
    "PRETRAIN.AUGMENT.JITTER_PROB": SHARE,
    "PRETRAIN.AUGMENT.BRIGHTNESS": SHARE,
    "PRETRAIN.AUGMENT.CONTRAST": SHARE,
    "PRETRAIN.AUGMENT.SATURATION": SHARE,
    "PRETRAIN.AUGMENT.HUE": within(0.5, " of a turn"),
    "PRETRAIN.AUGMENT.GRAY_PROB": SHARE,
    "PRETRAIN.AUGMENT.BLUR_PROB": SHARE,
    "PRETRAIN.AUGMENT.BLUR_SIGMA": bounds(float("inf")),
    "PRETRAIN.AUGMENT.SOLARIZE_PROB": SHARE,
    "PRETRAIN.AUGMENT.VIEW2.BLUR_PROB": SHARE_OR_NONE,
    "PRETRAIN.AUGMENT.VIEW2.SOLARIZE_PROB": SHARE_OR_NONE,
    "SOLVER.BASE_LR": above(0),
    "SOLVER.MOMENTUM": below_one(),
    "SOLVER.WEIGHT_DECAY": at_least(0),
    "SOLVER.WEIGHT_DECAY_NORM": at_least(0),
    "SOLVER.WEIGHT_DECAY_BIAS": optional(at_least(0), "WEIGHT_DECAY"),
    "SOLVER.CHECKPOINT_PERIOD": at_least(0),
    "DATALOADER.NUM_WORKERS": at_least(0),
    "INPUT.FORMAT": Rule(lambda value: value == "RGB", "'RGB', which the views are"),
    "MODEL.DEVICE": Rule(is_device, "'cpu', 'cuda' or 'cuda:N' of a GPU that is there"),
    "MODEL.BACKBONE.NAME": Rule(
        lambda name: name in BACKBONE_REGISTRY, "the name of a registered backbone"
    ),
    "MODEL.BACKBONE.FREEZE_AT": Rule(lambda value: value == 0, "0: all is trained"),
    "MODEL.RESNETS.DEPTH": one_of(DEPTHS),
    "MODEL.PIXEL_MEAN": Rule(lambda mean: are_numbers(mean, 3), "three numbers, of R, G and B"),
    "MODEL.PIXEL_STD": Rule(
        lambda std: are_numbers(std, 3) and min(std) > 0, "three numbers > 0, of R, G and B"
    ),
    "SEED": Rule(lambda value: value < 2**31, "below 2**31 (below 0: one is drawn)"),
}


def local_shares(count: int) -> Rule:
    """Return the rule of a probability of ``count`` local views, or of equal parts of them."""

    def holds(value: object) -> bool:
        parts = value if isinstance(value, list | tuple) and value else (value,)
        return count % len(parts) == 0 and all(map(SHARE.holds, parts))

    return Rule(holds, f"{SHARE.expected}, or as many such numbers as divide {count} local views")


def check_config(cfg: CfgNode) -> None:
    """Check the values that pretraining reads, before anything is built.

    Raises:
        UserError: names key, value and what is allowed.
    """
    method_class(cfg).check_config(cfg)
    warmup = Rule(lambda value: 0 <= value < cfg.PRETRAIN.EPOCHS, "in [0, EPOCHS)")
    local = optional(local_shares(cfg.PRETRAIN.AUGMENT.LOCAL_CROPS), "as in first views")
    more = {f"PRETRAIN.AUGMENT.LOCAL.{name}_PROB": local for name in ("BLUR", "SOLARIZE")}
    check_rules(cfg, RULES | more | {"PRETRAIN.WARMUP_EPOCHS": warmup})
    check_batchnorm(cfg, comm.get_world_size())
