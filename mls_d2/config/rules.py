"""The one language in which checks of config values are written: a rule for each dotted key."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mls_d2.core.errors import UserError


@dataclass(frozen=True)
class Rule:
    """What a value must be: a test, and the words that follow "must be" if it fails."""

    holds: Callable[[Any], bool]
    expected: str


def check_rules(cfg: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Check values of a config.

    Args:
        cfg: nested mappings, such as a ``CfgNode``.
        rules: by dotted key, of any depth.

    Raises:
        UserError: the first value that breaks its rule; names key, value and what is allowed.
    """
    for key, rule in rules.items():
        value = value_at(cfg, key)
        if not _is_fine(rule, value):
            raise UserError(f"{key} must be {rule.expected}, got {value!r}", code="bad-value")


def value_at(cfg: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key that exists."""
    return functools.reduce(lambda node, part: node[part], key.split("."), cfg)


def one_of(names: Iterable[object]) -> Rule:
    """Return the rule that a value is one of ``names``."""
    known = tuple(names)
    return Rule(lambda value: value in known, "one of " + ", ".join(map(repr, known)))


def above(bound: float) -> Rule:
    """Return the rule that a value is greater than ``bound``."""
    return Rule(lambda value: value > bound, f"> {bound:g}")


def at_least(bound: float, unit: str = "") -> Rule:
    """Return the rule that a value is ``bound`` or more."""
    return Rule(lambda value: value >= bound, f">= {bound:g}{unit}")


def within(high: float, unit: str = "") -> Rule:
    """Return the rule that a value lies in [0, ``high``]."""
    return Rule(lambda value: 0 <= value <= high, f"in [0, {high:g}]{unit}")


def below_one() -> Rule:
    """Return the rule that a value lies in [0, 1)."""
    return Rule(lambda value: 0 <= value < 1, "in [0, 1)")


def bounds(highest: float) -> Rule:
    """Return the rule that a value is a lower and an upper bound, above 0 and up to ``highest``."""
    most = "" if highest == float("inf") else f" <= {highest:g}"
    return Rule(
        lambda pair: are_numbers(pair, 2) and 0 < pair[0] <= pair[1] <= highest,
        f"0 < low <= high{most}",
    )


def optional(rule: Rule, meaning: str) -> Rule:
    """Return the rule that a value is None, which means ``meaning``, or keeps ``rule``."""
    return Rule(
        lambda value: value is None or rule.holds(value), f"{rule.expected}, or None ({meaning})"
    )


def are_numbers(values: Sequence[object], count: int) -> bool:
    """Whether ``values`` are that many numbers."""
    return len(values) == count and all(isinstance(value, int | float) for value in values)


def _is_fine(rule: Rule, value: Any) -> bool:
    try:
        return bool(rule.holds(value))
    except TypeError:  # a value of another type, which cannot be compared
        return False
