"""How libraries name the tensors of a ResNet: each layout as rules to torchvision's names.

From torchvision's names there is one way on to Detectron2's, :func:`detectron2_name`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LEAF = r"(weight|bias|running_mean|running_var)"
Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Layout:
    """One way to name a ResNet's tensors.

    Attributes:
        name: as users are told.
        stem, block: two keys that a network so named has, below its prefix.
        rules: pairs of pattern and replacement that turn a whole name into torchvision's; the first
            that matches counts, and what none matches does not belong to the backbone.
    """

    name: str
    stem: str
    block: str
    rules: Rules

    def torchvision_name(self, name: str) -> str | None:
        """Return torchvision's name of a tensor, None where it is none of the backbone's."""
        for pattern, replacement in self.rules:
            match = re.fullmatch(pattern, name)
            if match:
                return _with_arithmetic(match.expand(replacement))
        return None


def detectron2_name(name: str) -> str:
    """Return Detectron2's name of a tensor with torchvision's.

    Raises:
        ValueError: not a name of a torchvision ResNet's backbone.
    """
    for pattern, replacement in _TO_DETECTRON2:
        match = re.fullmatch(pattern, name)
        if match:
            return _with_arithmetic(match.expand(replacement))
    raise ValueError(f"'{name}' is not a name of torchvision's ResNet")


def torchvision_from_detectron2(name: str) -> str | None:
    """Return torchvision's name of a backbone tensor with Detectron2's, None for others."""
    return DETECTRON2.torchvision_name(name)


def _with_arithmetic(text: str) -> str:
    # "{3+1}" in a replacement: stages and steps are counted from another number there.
    return re.sub(r"\{(\d+)([+-]\d+)\}", lambda m: str(int(m[1]) + int(m[2])), text)


_TORCHVISION: Rules = (
    (r"conv1\.weight", r"conv1.weight"),
    (rf"bn1\.{_LEAF}", r"bn1.\1"),
    (r"layer([1-4])\.(\d+)\.conv([1-3])\.weight", r"layer\1.\2.conv\3.weight"),
    (rf"layer([1-4])\.(\d+)\.bn([1-3])\.{_LEAF}", r"layer\1.\2.bn\3.\4"),
    (r"layer([1-4])\.(\d+)\.downsample\.0\.weight", r"layer\1.\2.downsample.0.weight"),
    (rf"layer([1-4])\.(\d+)\.downsample\.1\.{_LEAF}", r"layer\1.\2.downsample.1.\3"),
)
_TO_DETECTRON2: Rules = (
    (r"conv1\.weight", r"stem.conv1.weight"),
    (r"bn1\.(.+)", r"stem.conv1.norm.\1"),
    (r"layer(\d)\.(\d+)\.conv(\d)\.weight", r"res{\1+1}.\2.conv\3.weight"),
    (r"layer(\d)\.(\d+)\.bn(\d)\.(.+)", r"res{\1+1}.\2.conv\3.norm.\4"),
    (r"layer(\d)\.(\d+)\.downsample\.0\.weight", r"res{\1+1}.\2.shortcut.weight"),
    (r"layer(\d)\.(\d+)\.downsample\.1\.(.+)", r"res{\1+1}.\2.shortcut.norm.\3"),
)

TORCHVISION = Layout("torchvision", "conv1.weight", "layer1.0.conv1.weight", _TORCHVISION)
# nn.Sequential(*list(resnet.children())[:-1]): conv1, bn1, relu, maxpool, layer1 to layer4.
SEQUENTIAL = Layout(
    "numbered Sequential",
    "0.weight",
    "4.0.conv1.weight",
    (
        (r"0\.weight", r"conv1.weight"),
        (rf"1\.{_LEAF}", r"bn1.\1"),
        *(
            (pattern.replace(r"layer([1-4])", r"([4-7])"), text.replace(r"layer\1", r"layer{\1-3}"))
            for pattern, text in _TORCHVISION[2:]
        ),
    ),
)
VISSL = Layout(
    "VISSL",
    "_feature_blocks.conv1.weight",
    "_feature_blocks.layer1.0.conv1.weight",
    tuple((rf"_feature_blocks\.{pattern}", text) for pattern, text in _TORCHVISION),
)
HUGGING_FACE = Layout(
    "Hugging Face",
    "embedder.embedder.convolution.weight",
    "encoder.stages.0.layers.0.layer.0.convolution.weight",
    (
        (r"embedder\.embedder\.convolution\.weight", r"conv1.weight"),
        (rf"embedder\.embedder\.normalization\.{_LEAF}", r"bn1.\1"),
        (
            r"encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.convolution\.weight",
            r"layer{\1+1}.\2.conv{\3+1}.weight",
        ),
        (
            rf"encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.normalization\.{_LEAF}",
            r"layer{\1+1}.\2.bn{\3+1}.\4",
        ),
        (
            r"encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.convolution\.weight",
            r"layer{\1+1}.\2.downsample.0.weight",
        ),
        (
            rf"encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.normalization\.{_LEAF}",
            r"layer{\1+1}.\2.downsample.1.\3",
        ),
    ),
)
_CLASSY = r"blocks\.(\d)\.block\d-(\d+)\."
CLASSY_VISION = Layout(
    "ClassyVision",
    "initial_block._module.0.weight",
    "blocks.0.block0-0.convolutional_block.0.weight",
    (
        (r"initial_block\._module\.0\.weight", r"conv1.weight"),
        (rf"initial_block\._module\.1\.{_LEAF}", r"bn1.\1"),
        *(
            (
                rf"{_CLASSY}convolutional_block\.{3 * k}\.weight",
                rf"layer{{\1+1}}.\2.conv{k + 1}.weight",
            )
            for k in range(3)
        ),
        *(
            (
                rf"{_CLASSY}convolutional_block\.{3 * k + 1}\.{_LEAF}",
                rf"layer{{\1+1}}.\2.bn{k + 1}.\3",
            )
            for k in range(2)
        ),
        (rf"{_CLASSY}bn\.{_LEAF}", r"layer{\1+1}.\2.bn3.\3"),
        (rf"{_CLASSY}downsample\.0\.weight", r"layer{\1+1}.\2.downsample.0.weight"),
        (rf"{_CLASSY}downsample\.1\.{_LEAF}", r"layer{\1+1}.\2.downsample.1.\3"),
    ),
)
DETECTRON2 = Layout(
    "Detectron2",
    "stem.conv1.weight",
    "res2.0.conv1.weight",
    (
        (r"stem\.conv1\.weight", r"conv1.weight"),
        (rf"stem\.conv1\.norm\.{_LEAF}", r"bn1.\1"),
        (r"res([2-5])\.(\d+)\.conv([1-3])\.weight", r"layer{\1-1}.\2.conv\3.weight"),
        (rf"res([2-5])\.(\d+)\.conv([1-3])\.norm\.{_LEAF}", r"layer{\1-1}.\2.bn\3.\4"),
        (r"res([2-5])\.(\d+)\.shortcut\.weight", r"layer{\1-1}.\2.downsample.0.weight"),
        (rf"res([2-5])\.(\d+)\.shortcut\.norm\.{_LEAF}", r"layer{\1-1}.\2.downsample.1.\3"),
    ),
)
_C2_LEAVES = {
    "gamma": "weight",
    "beta": "bias",
    "running_mean": "running_mean",
    "running_var": "running_var",
}
CAFFE2 = Layout(
    "Caffe2",
    "conv1_w",
    "res2_0_branch2a_w",
    (
        (r"conv1_w", r"conv1.weight"),
        *((rf"res_conv1_bn_{leaf}", f"bn1.{ours}") for leaf, ours in _C2_LEAVES.items()),
        *(
            (rf"res([2-5])_(\d+)_branch2{letter}_w", rf"layer{{\1-1}}.\2.conv{k}.weight")
            for k, letter in enumerate("abc", start=1)
        ),
        *(
            (rf"res([2-5])_(\d+)_branch2{letter}_bn_{leaf}", rf"layer{{\1-1}}.\2.bn{k}.{ours}")
            for k, letter in enumerate("abc", start=1)
            for leaf, ours in _C2_LEAVES.items()
        ),
        (r"res([2-5])_(\d+)_branch1_w", r"layer{\1-1}.\2.downsample.0.weight"),
        *(
            (rf"res([2-5])_(\d+)_branch1_bn_{leaf}", rf"layer{{\1-1}}.\2.downsample.1.{ours}")
            for leaf, ours in _C2_LEAVES.items()
        ),
    ),
)

LAYOUTS = (TORCHVISION, SEQUENTIAL, VISSL, HUGGING_FACE, CLASSY_VISION, DETECTRON2, CAFFE2)
