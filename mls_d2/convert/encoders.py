"""Finding the encoder in a checkpoint by the structure of its tensors' names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mls_d2.checkpoint.backbone_file import same_values
from mls_d2.convert.contents import check_copy, tensor_maps
from mls_d2.convert.layouts import LAYOUTS, Layout
from mls_d2.convert.sources import SOURCES, KnownSource
from mls_d2.core.errors import UserError, nearest

_MAIN_ENTRIES = ("state_dict", "model", "model_state_dict")
# VISSL's checkpoints of sharded (FSDP) runs: each file holds a slice of the tensors.
_SHARDED = "shard_list"
# Names that show another network than Detectron2's ResNet.
_FOREIGN = (
    (r"(.*\.)?(cls_token|patch_embed\..*|pos_embed)", "a Vision Transformer"),
    (r"(.*\.)?(downsample_layers|stages\.\d\.\d+\.dwconv|stages\.\d\.\d+\.depthwise_conv)\b.*",
     "a ConvNeXt"),
    (r"(.*\.)?(layer1\.0\.conv2\.(convs?|fc|attn)|net\.2\.main_conv)\b.*",
     "a network of Selective Kernel units"),
    (r"(.*\.)?(conv1|stem)\.0\.weight", "a ResNet with a deep stem (three 3×3 convolutions)"),
)  # fmt: skip
_ADDITIONS = (
    (r".*\.(se|attn|att)\b.*", "squeeze-and-excitation or attention"),
    (r".*downsample\.[2-9].*", "pooling in the shortcuts (ResNet-D)"),
    (r".*(conv\d|\.0)\.bias", "biases of convolutions, as if norms were folded"),
)
# Names of weights that are not stored as such, and what to do.
_NOT_PLAIN = (
    (r".*(weight_orig|weight_g|\.parametrizations\..*)",
     "are pruned or reparametrised; make them plain (torch.nn.utils.prune.remove, "
     "parametrize.remove_parametrizations) and save again"),
    (r"(.*\.)?_?flat_param\w*", "are FSDP's flat parameters; save its full state dict"),
)  # fmt: skip
# Why a tensor is left out, by its name; the first that matches counts.
_REASONS = (
    (r"(.*[._])?(queue|queue2|prototypes|center|contrast|dictionary|memory)\w*\b.*",
     "queues, prototypes and memories"),
    (r"(.*[._])?(fpn_\w+|neck|rpn\w*|proposal_generator|roi_heads?|bbox_head|mask_head)\b.*",
     "necks and detection heads"),
    (r"(.*[._])?(\w*proj\w*|\w*head\w*|\w*predictor\w*|fc\d*|linear|classifier|bn|g|value_transform"
     r"|grouping\w*|mlp)\b.*", "projectors and heads"),
)  # fmt: skip
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder in a file."""

    path: tuple[str, ...]  # keys to the dict that holds it
    prefix: str  # of its names there
    layout: Layout  # of its names below the prefix
    names: Mapping[str, Tensor]  # all of that dict

    @property
    def label(self) -> str:
        """The path and the prefix, "." for none, as users name it."""
        return " > ".join((*self.path, self.prefix or "."))

    def describe(self) -> str:
        """Return the label and the layout."""
        return f"'{self.label}' ({self.layout.name} names)"

    def tensors(self, also: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], list[str]]:
        """Return the backbone's tensors by torchvision's names, and the names left out.

        Raises:
            UserError: the file has different copies of one tensor.
        """
        found: dict[str, Tensor] = {}
        left = []
        for name, value in self.names.items():
            prefix = next((p for p in (self.prefix, *also) if name.startswith(p)), None)
            ours = self.layout.torchvision_name(name[len(prefix) :]) if prefix is not None else None
            if ours is None:
                left.append(name)
            elif ours in found:
                check_copy(name, found[ours], value)
                left.append(name)
            else:
                found[ours] = value
        if self.layout.folded_norm:
            found |= _neutral_statistics(found)
        return found, left

    def check_nothing_more(self, left: list[str]) -> None:
        """Refuse tensors in the stem and the stages that a ResNet does not have.

        Raises:
            UserError: names them, and the kind of network if that is known.
        """
        network = re.compile(re.escape(self.prefix) + (self.layout.network or "(?!)"))
        more = [name for name in left if network.match(name) and not name.endswith(_COUNTER)]
        if not more:
            return
        for pattern, kind in (*_FOREIGN, *_ADDITIONS):
            if any(re.fullmatch(pattern, name) for name in more):
                problem = f"{kind} ({more[0]}), which Detectron2's ResNet cannot represent"
                break
        else:
            problem = f"tensors that Detectron2's ResNet does not have: {', '.join(more[:5])}"
        raise UserError(f"it has {problem}", code="other-network")

    def num_groups(self) -> int:
        """Return the groups of its 3×3 convolutions, 0 if they cannot be read from the shapes."""
        named = self.tensors()[0]
        first, second = (named.get(f"layer1.0.conv{k}.weight") for k in (1, 2))
        if first is None or second is None or first.ndim != 4 or second.ndim != 4:
            return 0
        return first.shape[0] // max(second.shape[1], 1)


def find_encoders(content: Any) -> list[FoundEncoder]:
    """Return every encoder in a file's content.

    Raises:
        UserError: there is none; names what is there instead, if that is known.
    """
    if isinstance(content, Mapping) and content.get("type") == _SHARDED:
        raise UserError(
            "it is one shard of a sharded (FSDP) checkpoint of VISSL; consolidate the shards with "
            "VISSL's tools first",
            code="not-a-checkpoint",
        )
    maps = list(tensor_maps(content))
    found = [
        FoundEncoder(path, prefix, layout, names)
        for path, names in maps
        for layout in LAYOUTS
        for prefix in _prefixes(names, layout)
    ]
    if not found:
        # The tensors of an optimizer have names, too.
        network = [names for path, names in maps if not any("optim" in key for key in path)]
        raise _no_encoder([name for names in network for name in names])
    return found


def choose(
    encoders: list[FoundEncoder], *, source: str = "auto", encoder: str | None = None
) -> tuple[FoundEncoder, KnownSource]:
    """Return the encoder to take and the source of the file.

    Args:
        encoders: of :func:`find_encoders`.
        source: "auto", or a name in :data:`mls_d2.convert.sources.SOURCES`.
        encoder: prefix, or whole label, of the encoder to take instead of the one that the authors
            transfer.

    Raises:
        UserError: an unknown source, one that does not fit, or several different encoders of
            which none is known to be the one that is transferred.
    """
    names = {entry.name for entry in SOURCES}
    if source != "auto" and source not in names:
        raise UserError(f"no source '{source}'; {nearest(source, names)}", code="unknown-name")
    entries = [e for e in SOURCES if (e.auto if source == "auto" else e.name == source)]
    listed = "\n  ".join(item.describe() for item in encoders)
    if encoder is not None:
        encoders = [item for item in encoders if _is_asked_for(item, encoder)]
        if not encoders:
            raise UserError(
                f"there is no encoder '{encoder}'; there are\n  {listed}", code="unknown-name"
            )
        entries = [*entries, _unknown(encoders[0])]
    for entry in entries:
        fitting = [item for item in encoders if _fits(entry, item, chosen=encoder is not None)]
        if fitting:
            return _only(fitting, f"several encoders of source '{entry.name}'"), entry
    if source != "auto":
        raise UserError(
            f"this is not a checkpoint of source '{source}'; its encoders are\n  {listed}",
            code="other-source",
        )
    chosen = _only(encoders, "several encoders, of which none is known to be the one to transfer")
    return chosen, _unknown(chosen)


def others(encoders: list[FoundEncoder], chosen: FoundEncoder) -> list[str]:
    """Return the labels of the encoders that differ from the chosen one, without copies."""
    different = without_copies([chosen, *(item for item in encoders if item is not chosen)])
    return [item.label for item in different[1:]]


def reasons(
    left: list[str], chosen: FoundEncoder, encoders: list[FoundEncoder]
) -> dict[str, list[str]]:
    """Sort the names that were left out by the reason."""
    prefixes = {item.prefix for item in encoders} - {chosen.prefix, ""}
    found: dict[str, list[str]] = {}
    for name in sorted(left):
        if name.endswith(_COUNTER):
            reason = "counters, which nothing needs"
        elif any(name.startswith(prefix) for prefix in prefixes):
            reason = "other encoders or copies of this one"
        else:
            fitting = (why for pattern, why in _REASONS if re.fullmatch(pattern, name))
            reason = next(fitting, "no part of a ResNet")
        found.setdefault(reason, []).append(name)
    return found


def without_copies(encoders: list[FoundEncoder]) -> list[FoundEncoder]:
    """Leave out encoders that hold the same tensors as one before."""
    kept: list[tuple[FoundEncoder, Mapping[str, Tensor]]] = []
    for item in encoders:
        mine = item.tensors()[0]
        if not any(_same(mine, other) for _, other in kept):
            kept.append((item, mine))
    return [item for item, _ in kept]


def _prefixes(names: Mapping[str, Tensor], layout: Layout) -> list[str]:
    stem, block = layout.keys
    starts = [name.removesuffix(stem) for name in names if name.endswith(stem)]
    return [
        prefix
        for prefix in starts
        if (not prefix or prefix.endswith((".", "/"))) and prefix + block in names
    ]


def _is_asked_for(item: FoundEncoder, encoder: str) -> bool:
    """Whether ``encoder`` is the item's prefix, or its label or the end of it."""
    wanted, label = (text.rstrip("./ >") for text in (encoder, item.label))
    return wanted in (item.prefix.rstrip("./"), label) or label.endswith(f" > {wanted}")


def _fits(entry: KnownSource, item: FoundEncoder, *, chosen: bool) -> bool:
    return (
        (chosen or entry.encoder is None or item.prefix == entry.encoder)
        and (not entry.layout or item.layout.name == entry.layout)
        and (not entry.container or (bool(item.path) and item.path[-1] in entry.container))
        and all(any(re.match(pattern, name) for name in item.names) for pattern in entry.needs)
        and (not entry.num_groups or item.num_groups() == entry.num_groups)
    )


def _only(encoders: list[FoundEncoder], problem: str) -> FoundEncoder:
    """Return the one encoder among copies; weights are preferred to their moving averages."""
    plain = [item for item in encoders if not item.path or item.path[-1] in _MAIN_ENTRIES]
    encoders = plain or encoders
    different = without_copies(encoders) if len(encoders) > 1 else encoders
    if len(different) > 1:
        listed = "\n  ".join(item.describe() for item in different)
        raise UserError(f"{problem}:\n  {listed}\nChoose one with --encoder", code="many-encoders")
    return different[0]


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(same_values(one[k], other[k]) for k in one)


def _neutral_statistics(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return mean 0 and variance 1 - epsilon, as Detectron2 gives folded norms."""
    norms = [name.removesuffix(".bias") for name in named if name.endswith(".bias")]
    mean = {f"{norm}.running_mean": torch.zeros_like(named[f"{norm}.bias"]) for norm in norms}
    return mean | {
        f"{norm}.running_var": torch.ones_like(named[f"{norm}.bias"]) - 1e-5 for norm in norms
    }


def _unknown(item: FoundEncoder) -> KnownSource:
    return KnownSource(
        "unknown",
        f"an unknown source with {item.layout.name} names",
        item.prefix,
        note="its input is not known; RGB with ImageNet's mean and std is assumed, see --set",
    )


def _no_encoder(names: list[str]) -> UserError:
    shown = ", ".join(names[:5])
    problem = f"there is no ResNet in it; its names are {shown}, …"
    if not names:
        problem = "there are no tensors by name in it (only an optimizer's state, or other objects)"
    elif all(re.search(r"proj|head|fc|predictor|queue|prototypes", name) for name in names):
        problem = f"there is a projector or head in it and no backbone ({shown})"
    for pattern, kind in reversed(_FOREIGN):
        if any(re.fullmatch(pattern, name) for name in names):
            problem = f"this is {kind}, which Detectron2's ResNet cannot represent"
    for pattern, why in _NOT_PLAIN:
        odd = next((name for name in names if re.fullmatch(pattern, name)), None)
        problem = f"its weights {why} (it has {odd})" if odd else problem
    return UserError(problem, code="no-encoder")
