"""Options of pretraining methods: dataclasses from which config keys, checks and docs are made."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from mls_d2.config.rules import Rule, check_rules
from mls_d2.core.errors import UserError

T = TypeVar("T", bound="Options")


def option(default: Any, about: str, rule: Rule, *, symbol: str = "", key: str = "") -> Any:
    """Return a dataclass field that is a config key.

    Args:
        default: the value of the method's paper.
        about: what it is, with its unit.
        rule: which values are allowed.
        symbol: in the paper.
        key: last part of the config key; by default the field's name in capitals.
    """
    metadata = {"about": about, "rule": rule, "symbol": symbol, "key": key}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Key:
    """One config key of a method."""

    name: str
    field: str
    default: Any
    about: str
    rule: Rule
    symbol: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a method lets its users choose; a subclass adds fields made by :func:`option`.

    The fields that a class declares are config keys below its ``group``: ``temperature`` of a
    class with group MOCO is ``cfg.MOCO.TEMPERATURE``.
    """

    group: ClassVar[str] = ""

    @classmethod
    def config_keys(cls) -> Iterator[Key]:
        """Yield the config keys, those of base classes first."""
        groups = {
            name: owner.group
            for owner in reversed(cls.__mro__)
            if issubclass(owner, Options)
            for name in vars(owner).get("__annotations__", {})
        }
        for item in dataclasses.fields(cls):
            meta = item.metadata
            name = f"{groups[item.name]}.{meta['key'] or item.name.upper()}"
            yield Key(name, item.name, item.default, meta["about"], meta["rule"], meta["symbol"])

    @classmethod
    def from_config(cls: type[T], cfg: Mapping[str, Any]) -> T:
        """Read and check the options in a config.

        Raises:
            UserError: a value that is not allowed.
        """
        keys = list(cls.config_keys())
        check_rules(cfg, {key.name: key.rule for key in keys})
        values = {}
        for key in keys:
            group, leaf = key.name.split(".")
            values[key.field] = cfg[group][leaf]
        options = cls(**values)
        for name, holds, expected in options.joint_rules():
            if not holds:
                group, leaf = name.split(".")
                raise UserError(
                    f"{name} must be {expected}, got {cfg[group][leaf]!r}", code="bad-value"
                )
        return options

    def joint_rules(self) -> Iterator[tuple[str, bool, str]]:
        """Yield (key, whether it holds, what is expected) for rules of several values together."""
        yield from ()


OPTIONS: dict[str, type[Options]] = {}
"""Options of every registered method by its name; :func:`mls_d2.config.defaults.get_cfg` adds their
keys. ``import pretrain.methods`` fills it."""


def options_table() -> str:
    """Return a Markdown table of the options of all registered methods."""
    keys = {key.name: key for options in OPTIONS.values() for key in options.config_keys()}
    lines = ["| key | symbol | default | meaning | allowed |", "|---|---|---|---|---|"]
    for name, key in sorted(keys.items()):
        cells = (f"`{name}`", key.symbol, f"`{key.default!r}`", key.about, key.rule.expected)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
