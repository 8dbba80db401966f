"""The network that tensors belong to, from their shapes, and a test that renaming is right."""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from torch import Tensor, nn
from torchvision.models import resnet

from mls_d2.checkpoint.initial_weights import listed, shape_differences
from mls_d2.convert.layouts import detectron2_name
from mls_d2.core.errors import UserError

_DEPTHS = {
    (2, 2, 2, 2, False): 18,
    (3, 4, 6, 3, False): 34,
    (3, 4, 6, 3, True): 50,
    (3, 4, 23, 3, True): 101,
    (3, 8, 36, 3, True): 152,
}
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Architecture:
    """A ResNet as Detectron2's config describes it: ``MODEL.RESNETS``."""

    depth: int
    stem_out_channels: int
    res2_out_channels: int
    num_groups: int
    width_per_group: int
    stride_in_1x1: bool = False


def architecture_of(state: Mapping[str, Tensor]) -> Architecture:
    """Return the network of tensors with torchvision's names; the stride cannot be seen in them.

    Raises:
        UserError: another stem (CIFAR's 3×3, other input channels), no BatchNorm, statistics of a
            split BatchNorm, shapes of no ResNet, or a depth that Detectron2 does not have.
    """
    bottleneck = "layer1.0.conv3.weight" in state
    last_name = f"layer1.0.conv{3 if bottleneck else 2}.weight"
    stem, first, second, last = (
        _convolution(state, name)
        for name in ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", last_name)
    )
    if tuple(stem.shape[1:]) != (3, 7, 7):
        channels, *kernel = stem.shape[1:]
        raise _other(
            f"its first convolution is {'×'.join(map(str, kernel))} of {channels} channels; "
            "Detectron2's is 7×7 of RGB's 3 (CIFAR's networks have 3×3)"
        )
    _check_norms(state)
    counts = [
        len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    ]
    depth = _DEPTHS.get((*counts, bottleneck))  # type: ignore[arg-type]
    if depth is None:
        kind = "bottlenecks" if bottleneck else "basic blocks"
        known = ", ".join(map(str, sorted(_DEPTHS.values())))
        raise _other(f"its stages have {counts} {kind}; Detectron2 has ResNet {known}")
    groups, rest = divmod(first.shape[0], second.shape[1]) if second.shape[1] else (0, 0)
    if not groups or rest or last.shape[0] % groups:
        shapes = ", ".join(str(tuple(item.shape)) for item in (first, second, last))
        raise _other(f"the shapes of its first block fit no ResNet: {shapes}")
    width = first.shape[0] // groups
    if not bottleneck and (last.shape[0], groups, width) != (64, 1, 64):
        raise _other(
            f"its basic blocks have {last.shape[0]} channels in {groups} groups; Detectron2's "
            f"ResNet-{depth} has 64 in one"
        )
    return Architecture(depth, stem.shape[0], last.shape[0], groups, width)


def _other(problem: str) -> UserError:
    return UserError(problem, code="other-network")


def _convolution(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state or state[name].ndim != 4:
        found = f"is {tuple(state[name].shape)}" if name in state else "is missing"
        raise _other(f"it is not a whole ResNet: {name} {found}, expected a convolution's 4 axes")
    return state[name]


def _check_norms(state: Mapping[str, Tensor]) -> None:
    if "bn1.running_mean" not in state:
        raise _other("it has no BatchNorm statistics (GroupNorm, or a file without buffers)")
    weight, mean = state.get("bn1.weight"), state["bn1.running_mean"]
    if weight is not None and mean.numel() > weight.numel() > 0:
        splits = mean.numel() / weight.numel()
        raise _other(
            f"its BatchNorm statistics are those of {splits:g} splits of the batch (SplitBatchNorm "
            f"of lightly: {mean.numel()} values for {weight.numel()} channels); average them first"
        )


def build_backbone(architecture: Architecture) -> nn.Module:
    """Build Detectron2's ResNet with BatchNorm and all of its stages as outputs.

    It is on torch's "meta" device: shapes without values.
    """
    cfg = get_cfg()
    node = cfg.MODEL.RESNETS
    for name, value in asdict(architecture).items():
        setattr(node, name.upper(), value)
    node.NORM = "BN"
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    with torch.device("meta"):
        return build_resnet_backbone(cfg, ShapeSpec(channels=3))


def build_torchvision(architecture: Architecture) -> resnet.ResNet:
    """Build torchvision's ResNet of the same sizes."""
    bottleneck = architecture.depth >= 50
    block = resnet.Bottleneck if bottleneck else resnet.BasicBlock
    planes = architecture.res2_out_channels // block.expansion
    wide = architecture.width_per_group * 64 // planes if bottleneck else 64
    counts = next(key[:4] for key, depth in _DEPTHS.items() if depth == architecture.depth)
    net = resnet.ResNet(block, [1, 1, 1, 1], groups=architecture.num_groups, width_per_group=wide)
    # Its constructor has one stem and one width of stages only.
    net.inplanes = architecture.stem_out_channels
    net.conv1 = nn.Conv2d(3, net.inplanes, 7, stride=2, padding=3, bias=False)
    net.bn1 = nn.BatchNorm2d(net.inplanes)
    for stage, count in enumerate(counts):
        layer = net._make_layer(block, planes << stage, count, stride=1 if stage == 0 else 2)
        setattr(net, f"layer{stage + 1}", layer)
        if architecture.stride_in_1x1:
            layer[0].conv1.stride, layer[0].conv2.stride = layer[0].conv2.stride, (1, 1)
    del net.fc
    return net


@functools.cache
def _tensors_of(architecture: Architecture) -> dict[str, Tensor]:
    return build_backbone(architecture).state_dict()


def check_coverage(state: Mapping[str, Tensor], architecture: Architecture) -> None:
    """Refuse tensors, with Detectron2's names, that are not exactly those of the network.

    Raises:
        UserError: names what is missing, surplus or of another shape.
    """
    expected = _tensors_of(architecture)
    names = [name for name in expected if not name.endswith("num_batches_tracked")]
    lines = [f"{name}: not in the file" for name in names if name not in state]
    lines += [f"{name}: not in the network" for name in state if name not in expected]
    lines += shape_differences(state, expected, than="network").values()
    if lines:
        raise _other(f"the encoder is not a whole ResNet-{architecture.depth}{listed(lines)}")


@torch.no_grad()
def verify(original: Mapping[str, Tensor], architecture: Architecture) -> float:
    """Run torchvision's network and Detectron2's on the same input and compare every stage.

    Args:
        original: tensors with torchvision's names.
        architecture: of their network.

    Returns:
        The largest difference, relative to the largest value of its stage.

    Raises:
        UserError: it is above 1e-5.
    """
    with torch.device("meta"):
        theirs = build_torchvision(architecture).eval()
    ours = build_backbone(architecture).eval()
    # The same tensors, not copies; num_batches_tracked, which neither has, is not needed.
    theirs.load_state_dict(dict(original), strict=False, assign=True)
    named = {detectron2_name(name): value for name, value in original.items()}
    ours.load_state_dict(named, strict=False, assign=True)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    outputs, worst = ours(image), 0.0
    value: Tensor = nn.Sequential(theirs.conv1, theirs.bn1, theirs.relu, theirs.maxpool)(image)
    for stage in range(1, 5):
        value = getattr(theirs, f"layer{stage}")(value)
        found = outputs[f"res{stage + 1}"]
        # Untrained weights can be so large that a later stage overflows in both networks.
        finite = value.isfinite()
        if not torch.equal(finite, found.isfinite()):
            worst = float("inf")
        elif finite.any():
            scale = value[finite].abs().max().clamp_min(torch.finfo(value.dtype).tiny)
            worst = max(worst, ((found - value)[finite].abs().max() / scale).item())
    if not worst <= _TOLERANCE:
        raise UserError(
            f"the converted network differs from the original by {worst:.1e} of its outputs; "
            "please report this",
            code="not-verified",
        )
    return worst
