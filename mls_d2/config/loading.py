"""Loading a config: a YAML file with its bases, then KEY VALUE options."""

import functools
import io
import re
from collections.abc import Callable, Sequence

import yaml
from detectron2.utils.file_io import PathManager

from mls_d2.config.changes import flatten
from mls_d2.config.defaults import CfgNode, get_cfg
from mls_d2.config.rules import value_at
from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import YAML_FAULTS
from mls_d2.core.resources import find_config


def load_cfg(config_file: str | None, opts: Sequence[str] = ()) -> CfgNode:
    """Return the config of a YAML file with ``KEY VALUE`` overrides merged in (not frozen).

    Args:
        config_file: path of a YAML file, which may name a ``_BASE_``, or the name of one of this
            project's configs; None for the defaults.
        opts: ``[KEY, VALUE, KEY, VALUE, …]`` as given on a command line.

    Raises:
        UserError: no such file, not a YAML mapping, an unknown key (names the nearest), a value of
            the wrong type, or a key without a value.
    """
    cfg = get_cfg()
    if config_file is not None:
        config_file = find_config(config_file)
        try:
            loaded = CfgNode(_Utf8Config.load_yaml_with_base(config_file))
        except RecursionError:
            raise UserError(
                f"'{config_file}' is nested too deep, or its _BASE_ leads back to itself",
                code="bad-config",
            ) from None
        except (*YAML_FAULTS, OSError) as error:
            raise UserError(
                f"'{config_file}' is not a readable YAML config: {type(error).__name__} {error}",
                code="bad-config",
            ) from None
        for key in flatten(loaded):
            _refuse_unknown_key(key, cfg, origin=config_file)
        _merge(config_file, functools.partial(cfg.merge_from_other_cfg, loaded))
    late = [word for word in opts if word.startswith("--")]
    if late:
        raise UserError(
            f"{late[0]} comes after KEY VALUE pairs: options go before them", code="bad-option"
        )
    if len(opts) % 2:
        raise UserError(
            f"options are KEY VALUE pairs, got an odd number of words: {' '.join(opts)}",
            code="bad-option",
        )
    for key, value in zip(opts[0::2], opts[1::2], strict=True):
        _refuse_unknown_key(key, cfg, origin="command line")
        pair = [key, _as_float_if_needed(value, value_at(cfg, key))]
        _merge(f"command line: {key} {value}", functools.partial(cfg.merge_from_list, pair))
    return cfg


class _Utf8Config(CfgNode):
    @classmethod
    def _open_cfg(cls, filename: str) -> io.StringIO:
        """Return the text of a YAML file or base, in UTF-8 whatever the locale is."""
        with PathManager.open(filename, "rb") as file:
            content = file.read()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(
                f"'{filename}' is not UTF-8 text: {error.reason} at byte {error.start} "
                f"({content[error.start : error.start + 1]!r}); save it as UTF-8",
                code="bad-config",
            ) from None
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            kind = "it is empty" if node is None else f"got {node.tag.rpartition(':')[2]}"
            message = f"'{filename}' is no config: expected a mapping of keys to values, {kind}"
            raise UserError(message, code="bad-config")
        _refuse_repeated(node, filename)
        return io.StringIO(text)


def _refuse_repeated(node: yaml.Node | None, filename: str) -> None:
    """Refuse a mapping with a key twice, of which PyYAML drops the first with all below it."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise UserError(
                f"'{filename}' has '{key.value}' twice, again in line {key.start_mark.line + 1}",
                code="bad-config",
            )
        seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        _refuse_repeated(value, filename)


def _merge(origin: str, merge: Callable[[], None]) -> None:
    try:
        merge()
    except (ValueError, KeyError, AssertionError, SyntaxError) as error:
        raise UserError(f"{origin}: {error}", code="bad-value") from None


def _as_float_if_needed(word: str, default: object) -> str:
    """Make ``KEY 3`` valid for a float, for which yacs refuses an integer."""
    whole = isinstance(default, float) and re.fullmatch(r"[+-]?\d+", word)
    return f"{word}.0" if whole else word


def _refuse_unknown_key(key: str, cfg: CfgNode, *, origin: str) -> None:
    node = cfg
    for part in key.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            raise UserError(
                f"{origin}: unknown config key '{key}'; {nearest(key, flatten(cfg))}",
                code="unknown-key",
            )
        node = node[part]
