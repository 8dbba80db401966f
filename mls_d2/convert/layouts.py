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
        inside: pattern of the beginning of the names in its stem and stages: what no rule knows
            there is part of another network than a ResNet. "" is none.
        folded_norm: BatchNorm's statistics are folded into its weight and bias.
    """

    name: str
    stem: str
    block: str
    rules: Rules
    inside: str = ""
    folded_norm: bool = False

    def torchvision_name(self, name: str) -> str | None:
        """Return torchvision's name of a tensor, None where it is none of the backbone's."""
        for pattern, replacement in self.rules:
            match = re.fullmatch(pattern, name)
            if match:
                return with_arithmetic(match.expand(replacement))
        return None


def detectron2_name(name: str) -> str:
    """Return Detectron2's name of a tensor with torchvision's.

    Raises:
        ValueError: not a name of a torchvision ResNet's backbone.
    """
    for pattern, replacement in _TO_DETECTRON2:
        match = re.fullmatch(pattern, name)
        if match:
            return with_arithmetic(match.expand(replacement))
    raise ValueError(f"'{name}' is not a name of torchvision's ResNet")


def torchvision_from_detectron2(name: str) -> str | None:
    """Return torchvision's name of a backbone tensor with Detectron2's, None for others."""
    return DETECTRON2.torchvision_name(name)


def with_arithmetic(text: str) -> str:
    """Return ``text`` with sums in braces worked out: stages are counted from other numbers."""
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

TORCHVISION = Layout(
    "torchvision",
    "conv1.weight",
    "layer1.0.conv1.weight",
    _TORCHVISION,
    inside=r"(conv1|bn1|layer\d+\.\d+)\.",
)
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
    inside=r"[014-7]\.",
)
VISSL = Layout(
    "VISSL",
    "_feature_blocks.conv1.weight",
    "_feature_blocks.layer1.0.conv1.weight",
    tuple((rf"_feature_blocks\.{pattern}", text) for pattern, text in _TORCHVISION),
    inside=r"_feature_blocks\.(conv1|bn1|layer\d+\.\d+)\.",
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
    inside=r"(embedder|encoder\.stages)\.",
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
    inside=r"(initial_block|blocks)\.",
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
    inside=r"(stem\.conv\d|res[2-5]\.\d+)\.",
)
_C2_LEAVES = {
    "gamma": "weight",
    "beta": "bias",
    "running_mean": "running_mean",
    "running_var": "running_var",
}
_C2_FOLDED_LEAVES = {"s": "weight", "b": "bias"}


def _caffe2_rules(leaves: dict[str, str]) -> Rules:
    blocks = {f"branch2{letter}": (f"conv{k}", f"bn{k}") for k, letter in enumerate("abc", start=1)}
    blocks["branch1"] = ("downsample.0", "downsample.1")
    return (
        (r"conv1_w", r"conv1.weight"),
        *((rf"res_conv1_bn_{leaf}", f"bn1.{ours}") for leaf, ours in leaves.items()),
        *(
            (rf"res([2-5])_(\d+)_{theirs}_w", rf"layer{{\1-1}}.\2.{conv}.weight")
            for theirs, (conv, _) in blocks.items()
        ),
        *(
            (rf"res([2-5])_(\d+)_{theirs}_bn_{leaf}", rf"layer{{\1-1}}.\2.{norm}.{ours}")
            for theirs, (_, norm) in blocks.items()
            for leaf, ours in leaves.items()
        ),
    )


CAFFE2 = Layout("Caffe2", "res_conv1_bn_gamma", "res2_0_branch2a_w", _caffe2_rules(_C2_LEAVES))
CAFFE2_FOLDED = Layout(
    "Caffe2 with folded norms",
    "res_conv1_bn_s",
    "res2_0_branch2a_w",
    _caffe2_rules(_C2_FOLDED_LEAVES),
    folded_norm=True,
)

# hk.nets.ResNet, flattened by mls_d2.convert.haiku; the statistics are moving averages.
_HAIKU_LEAVES = {
    "scale": "weight",
    "offset": "bias",
    "~/mean_ema/average": "running_mean",
    "~/var_ema/average": "running_var",
}
_HAIKU_BLOCK = r"block_group_(\d)/~/block_(\d+)/~/"
HAIKU = Layout(
    "Haiku",
    "initial_conv/w",
    "block_group_0/~/block_0/~/conv_0/w",
    (
        (r"initial_conv/w", r"conv1.weight"),
        (rf"{_HAIKU_BLOCK}conv_(\d)/w", r"layer{\1+1}.\2.conv{\3+1}.weight"),
        (rf"{_HAIKU_BLOCK}shortcut_conv/w", r"layer{\1+1}.\2.downsample.0.weight"),
        *(
            rule
            for leaf, ours in _HAIKU_LEAVES.items()
            for rule in (
                (rf"initial_batchnorm/{leaf}", f"bn1.{ours}"),
                (rf"{_HAIKU_BLOCK}batchnorm_(\d)/{leaf}", rf"layer{{\1+1}}.\2.bn{{\3+1}}.{ours}"),
                (
                    rf"{_HAIKU_BLOCK}shortcut_batchnorm/{leaf}",
                    rf"layer{{\1+1}}.\2.downsample.1.{ours}",
                ),
            )
        ),
    ),
)
# The PyTorch port of SimCLR v2 by Separius; its Selective Kernel variants are refused by name.
_SIMCLR_V2_BLOCK = r"net\.([1-4])\.blocks\.(\d+)\."
SIMCLR_V2 = Layout(
    "SimCLR v2",
    "net.0.0.weight",
    "net.1.blocks.0.net.0.weight",
    (
        (r"net\.0\.0\.weight", r"conv1.weight"),
        (rf"net\.0\.1\.0\.{_LEAF}", r"bn1.\1"),
        *(
            (rf"{_SIMCLR_V2_BLOCK}net\.{2 * k}\.weight", rf"layer\1.\2.conv{k + 1}.weight")
            for k in range(3)
        ),
        *(
            (
                rf"{_SIMCLR_V2_BLOCK}net\.{2 * k + 1}\.0\.{_LEAF}",
                rf"layer\1.\2.bn{k + 1}.\3",
            )
            for k in range(3)
        ),
        (rf"{_SIMCLR_V2_BLOCK}projection\.shortcut\.weight", r"layer\1.\2.downsample.0.weight"),
        (rf"{_SIMCLR_V2_BLOCK}projection\.bn\.0\.{_LEAF}", r"layer\1.\2.downsample.1.\3"),
    ),
    inside=r"net\.\d+\.",
)

LAYOUTS = (
    TORCHVISION,
    SEQUENTIAL,
    VISSL,
    HUGGING_FACE,
    CLASSY_VISION,
    DETECTRON2,
    CAFFE2,
    CAFFE2_FOLDED,
    HAIKU,
    SIMCLR_V2,
)
