"""Where ResNet checkpoints come from, and which of their encoders the authors transfer.

The table is sources.yaml; docs/checkpoints.md shows it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Pixel mean and std on the 0–255 scale, in the order of the channels.
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
NORMALISATIONS = {
    "none": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "msra": ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
    "fair-x101": ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
}


@dataclass(frozen=True)
class KnownSource:
    """One kind of checkpoint: how it is recognised, what is taken, and what the tensors hide."""

    name: str  # for --source
    title: str
    # Prefix of the encoder to take, without those of wrappers (module. and so on); None: any.
    encoder: str | None = ""
    needs: tuple[str, ...] = ()  # patterns (re.match), one name in the same dict must match each
    container: tuple[str, ...] = ()  # the last key on the path to the dict is one of these
    layout: str = ""  # of the names, see layouts.py; "": any
    num_groups: int = 0  # of the network; 0: any
    also: tuple[str, ...] = ()  # prefixes of the rest of the encoder, if it is in several places
    detector_parts: str = ""  # how its FPN and box head are named, see detector_parts.py
    auto: bool = True  # whether it can be recognised; if not, the user must name it
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET  # mean, std on 0–255
    input_format: str = "RGB"
    stride_in_1x1: bool = False  # whether a block's first convolution has its stride
    note: str = ""  # what a user should know
    doubt: str = ""  # what is not known about its files
    code: str = ""  # repositories on GitHub
    licence: str = ""  # of that code, by its README or LICENSE
    weights: str = ""  # a published file

    @property
    def input(self) -> dict[str, Any]:
        """What the network was trained on, as named in the metadata of backbone files."""
        return {
            "pixel_mean": list(self.normalisation[0]),
            "pixel_std": list(self.normalisation[1]),
            "input_format": self.input_format,
            "stride_in_1x1": self.stride_in_1x1,
        }


def _read_sources() -> tuple[KnownSource, ...]:
    text = (Path(__file__).parent / "sources.yaml").read_text(encoding="utf-8")
    entries: dict[str, dict[str, Any]] = yaml.safe_load(text)
    for fields in entries.values():
        fields |= {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        if "normalisation" in fields:
            fields["normalisation"] = NORMALISATIONS[fields["normalisation"]]
    return tuple(KnownSource(name, **fields) for name, fields in entries.items())


SOURCES = _read_sources()
"""All known sources, special ones first."""


def sources_table() -> str:
    """Return the sources as a Markdown table, for docs/checkpoints.md."""
    rows = [(f"`{s.name}`", s.title, _taken(s), _input(s), _note(s)) for s in SOURCES]
    return _markdown(("`--source`", "what", "encoder taken", "input", "note"), rows)


def published_table() -> str:
    """Return where code and weights of the sources are, as a Markdown table."""
    rows = []
    for source in SOURCES:
        if source.code or source.weights:
            links = [f"[{repo}](https://github.com/{repo})" for repo in source.code.split(", ")]
            file = f"<{source.weights}>" if source.weights else ""
            rows.append((f"`{source.name}`", ", ".join(links), source.licence, file))
    return _markdown(("`--source`", "code", "its licence", "a published file"), rows)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = f"|{'---|' * len(head)}\n"
    first, *others = (f"| {' | '.join(cells)} |\n" for cells in (head, *rows))
    return "".join((first, rule, *others))


def _taken(source: KnownSource) -> str:
    names = {None: "any prefix", "": "bare names"}
    taken = names.get(source.encoder, f"`{source.encoder}`")
    also = "".join(f" and `{prefix}`" for prefix in source.also)
    place = f", under `{'` or `'.join(source.container)}`" if source.container else ""
    return taken + also + place


def _input(source: KnownSource) -> str:
    mean, std = source.normalisation
    if (mean, std) == IMAGENET and source.input_format == "RGB" and not source.stride_in_1x1:
        return "usual"
    stride = ", stride in the 1×1" if source.stride_in_1x1 else ""
    return f"{source.input_format}, mean {mean}, std {std}{stride}"


def _note(source: KnownSource) -> str:
    parts = {
        "SoCo": "FPN and box head on request",
        "InsLoc": "FPN and box head on request",
        "mls_d2": "FPN and box head of SoCo, FPN of ReSim on request",
        "ReSim": "FPN on request",
    }
    unseen = "" if source.auto else "never recognised: name it"
    doubt = f"not known: {source.doubt}" if source.doubt else ""
    facts = (source.note, unseen, parts.get(source.detector_parts, ""), doubt)
    return "; ".join(filter(None, facts))
