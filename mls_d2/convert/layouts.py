"""How libraries name the tensors of a ResNet: one table, read in both directions.

Every name is translated through torchvision's.
"""

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Layout:
    """One way to name a ResNet's tensors: names of modules, and of parameters behind them."""

    name: str
    stem: tuple[str, str]  # convolution and norm
    block: str  # the beginning of the names in a block, with {stage} and {block} for the numbers
    convs: tuple[str, str, str]  # within a block
    norms: tuple[str, str, str]
    shortcut: tuple[str, str] = ("downsample.0", "downsample.1")  # convolution and norm
    first_stage: int = 1
    conv: str = ".weight"
    # Weight, bias, mean, variance; without the last two they are folded into the others.
    norm: tuple[str, ...] = (".weight", ".bias", ".running_mean", ".running_var")
    key: str = ""  # a name that distinguishes the layout; "": the stem's convolution
    # How names in its stem and stages begin: unknown ones there show another network. "": no check.
    network: str = ""

    @property
    def folded_norm(self) -> bool:
        """Whether BatchNorm's statistics are folded into its weight and bias."""
        return len(self.norm) == 2

    @property
    def keys(self) -> tuple[str, str]:
        """Two names that a network in this layout has, below its prefix."""
        first = self.block.format(stage=self.first_stage, block=0)
        return self.key or self.stem[0] + self.conv, first + self.convs[0] + self.conv

    def torchvision_name(self, name: str) -> str | None:
        """Return torchvision's name of a tensor, None if it is not one of the backbone's."""
        if name in self._stem_names:
            return self._stem_names[name]
        match = self._block_pattern.match(name)
        rest = self._block_names.get(name[match.end() :]) if match else None
        if match is None or rest is None:
            return None
        stage = int(match["stage"]) - self.first_stage + 1
        return f"layer{stage}.{match['block']}.{rest}" if 1 <= stage <= 4 else None

    def name_of(self, torchvision_name: str) -> str | None:
        """Return this layout's name of a tensor with torchvision's, None for others."""
        match = re.match(r"layer([1-4])\.(\d+)\.", torchvision_name)
        names, start = self._stem_names, ""
        if match:
            stage = int(match[1]) + self.first_stage - 1
            names, start = self._block_names, self.block.format(stage=stage, block=match[2])
        rest = torchvision_name[match.end() :] if match else torchvision_name
        return next((start + name for name, theirs in names.items() if theirs == rest), None)

    @cached_property
    def _stem_names(self) -> dict[str, str]:
        return self._names([(*self.stem, "conv1", "bn1")])

    @cached_property
    def _block_names(self) -> dict[str, str]:
        numbered = zip(self.convs, self.norms, _CONVS, _NORMS, strict=True)
        return self._names([*numbered, (*self.shortcut, "downsample.0", "downsample.1")])

    def _names(self, modules: list[tuple[str, str, str, str]]) -> dict[str, str]:
        names = {}
        for conv, norm, their_conv, their_norm in modules:
            names[conv + self.conv] = f"{their_conv}.weight"
            for leaf, their_leaf in zip(self.norm, Layout.norm, strict=False):
                names[norm + leaf] = their_norm + their_leaf
        return names

    @cached_property
    def _block_pattern(self) -> re.Pattern[str]:
        first, *others = re.escape(self.block).split(r"\{stage\}")
        text = first + r"(?P<stage>\d)" + "(?P=stage)".join(others)
        return re.compile(text.replace(r"\{block\}", r"(?P<block>\d+)"))


_CONVS, _NORMS = ("conv1", "conv2", "conv3"), ("bn1", "bn2", "bn3")
_BRANCHES = ("branch2a", "branch2b", "branch2c")
TORCHVISION = Layout(
    "torchvision", ("conv1", "bn1"), "layer{stage}.{block}.", _CONVS, _NORMS,
    network=r"(conv1|bn1|layer\d+\.\d+)\.",
)  # fmt: skip
DETECTRON2 = Layout(
    "Detectron2", ("stem.conv1", "stem.conv1.norm"), "res{stage}.{block}.",
    _CONVS, ("conv1.norm", "conv2.norm", "conv3.norm"), ("shortcut", "shortcut.norm"),
    first_stage=2, network=r"(stem\.conv\d|res[2-5]\.\d+)\.",
)  # fmt: skip
LAYOUTS = (
    TORCHVISION,
    # nn.Sequential(*list(resnet.children())[:-1]): conv1, bn1, relu, maxpool, layer1 to layer4.
    Layout("numbered Sequential", ("0", "1"), "{stage}.{block}.", _CONVS, _NORMS,
           first_stage=4, network=r"[014-7]\."),
    Layout("VISSL", ("_feature_blocks.conv1", "_feature_blocks.bn1"),
           "_feature_blocks.layer{stage}.{block}.", _CONVS, _NORMS,
           network=r"_feature_blocks\.(conv1|bn1|layer\d+\.\d+)\."),
    Layout("Hugging Face", ("embedder.embedder.convolution", "embedder.embedder.normalization"),
           "encoder.stages.{stage}.layers.{block}.",
           ("layer.0.convolution", "layer.1.convolution", "layer.2.convolution"),
           ("layer.0.normalization", "layer.1.normalization", "layer.2.normalization"),
           ("shortcut.convolution", "shortcut.normalization"),
           first_stage=0, network=r"(embedder|encoder\.stages)\."),
    Layout("ClassyVision", ("initial_block._module.0", "initial_block._module.1"),
           "blocks.{stage}.block{stage}-{block}.",
           ("convolutional_block.0", "convolutional_block.3", "convolutional_block.6"),
           ("convolutional_block.1", "convolutional_block.4", "bn"),
           first_stage=0, network=r"(initial_block|blocks)\."),
    DETECTRON2,
    Layout("Caffe2", ("conv1", "res_conv1"), "res{stage}_{block}_", _BRANCHES, _BRANCHES,
           ("branch1", "branch1"), first_stage=2, conv="_w", key="res_conv1_bn_gamma",
           norm=("_bn_gamma", "_bn_beta", "_bn_running_mean", "_bn_running_var")),
    Layout("Caffe2 with folded norms", ("conv1", "res_conv1"), "res{stage}_{block}_",
           _BRANCHES, _BRANCHES, ("branch1", "branch1"), first_stage=2, conv="_w",
           key="res_conv1_bn_s", norm=("_bn_s", "_bn_b")),
    # hk.nets.ResNet, flattened by mls_d2.convert.haiku; the statistics are moving averages.
    Layout("Haiku", ("initial_conv", "initial_batchnorm"),
           "block_group_{stage}/~/block_{block}/~/", ("conv_0", "conv_1", "conv_2"),
           ("batchnorm_0", "batchnorm_1", "batchnorm_2"), ("shortcut_conv", "shortcut_batchnorm"),
           first_stage=0, conv="/w",
           norm=("/scale", "/offset", "/~/mean_ema/average", "/~/var_ema/average")),
    # The PyTorch port of SimCLR v2 by Separius; its Selective Kernel variants are refused by name.
    Layout("SimCLR v2", ("net.0.0", "net.0.1.0"), "net.{stage}.blocks.{block}.",
           ("net.0", "net.2", "net.4"), ("net.1.0", "net.3.0", "net.5.0"),
           ("projection.shortcut", "projection.bn.0"), network=r"net\.\d+\."),
)  # fmt: skip


def detectron2_name(name: str) -> str:
    """Return Detectron2's name of a tensor with torchvision's.

    Raises:
        ValueError: not a name of a torchvision ResNet's backbone.
    """
    found = DETECTRON2.name_of(name)
    if found is None:
        raise ValueError(f"'{name}' is not a name of torchvision's ResNet")
    return found


def torchvision_from_detectron2(name: str) -> str | None:
    """Return torchvision's name of a backbone tensor with Detectron2's, None for others."""
    return DETECTRON2.torchvision_name(name)
