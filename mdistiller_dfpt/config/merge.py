"""Merges values into a config by the types and limits of its keys; collects all errors instead of stopping at one."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

from yacs.config import CfgNode as CN

from ..errors import ConfigError
from ..literals import literal
from ..registry import suggest
from .keys import KEYS, REMOVED, Key
from .keywords import flatten
from .limits import Limit
from .policy import NOT_SET
from .yaml_reader import parse_yaml


class Merge:
    """Merges layers into a config, the last one to set a key wins; `where` is the place that set each key."""

    def __init__(self, cfg: CN):
        self.cfg = cfg
        self.faults: dict[str, str] = {}  # by key where a later layer may set another value, else by themselves
        self.where: dict[str, str] = {}

    def tree(
        self, data: dict[str, Any], where: Callable[[str], str], node: CN | None = None, prefix: str = "", *,
        replaces: bool = False,
    ) -> None:  # fmt: skip
        """Set the values of nested mappings; `replaces`: an open section is set as a whole, not key by key."""
        node = self.cfg if node is None else node
        for key, value in data.items():
            full = prefix + key
            if _entries(prefix.removesuffix(".")):
                self.free(node, key, full, value, where(full))
            elif full in REMOVED:
                if value != REMOVED[full].default:  # an earlier version wrote all keys, most of them with their default
                    self._fault(f"{where(full)}: unknown key {full}: {REMOVED[full].what_to_do()}")
            elif key not in node:
                self._fault(f"{where(full)}: unknown key {full}; {self._advice(full, prefix, node)}")
            elif isinstance(node[key], CN):
                if replaces and _entries(full):
                    self.replaced(node[key], full, value, where(full))
                elif isinstance(value, dict):
                    self.tree(value, where, node[key], full + ".", replaces=replaces)
                else:
                    self._fault(f"{where(full)}: {full} is a section; set a key below it")
            else:
                self.value(node, key, full, value, where(full))

    def _advice(self, full: str, prefix: str, node: CN) -> str:
        """What to write instead of an unknown key; `SOLVER.EPOCHS` is right on a command line alone."""
        section, _, rest = full.partition(".")
        if not prefix and full in flatten(self.cfg):
            return f"in a yaml file, write {section}: {{{rest}: ...}}"
        return suggest(full, [prefix + k for k in node] + list(flatten(self.cfg)))

    def free(self, node: CN, key: str, full: str, value: Any, where: str) -> None:
        """Set a key of an open section, which needs no default."""
        limit = _entries(full.rpartition(".")[0])
        assert limit is not None
        fits, value = _as_type(value, Key(1.0))
        if key and fits and _holds(limit, value):
            self._set(node, key, full, value, where)
        else:
            self._fault(f"{where}: {full} is {_show(value)}; it must be {limit.words}", full)

    def value(self, node: CN, key: str, full: str, value: Any, where: str) -> None:
        known = KEYS.get(full, Key(node[key]))
        if known.default is None and value in NOT_SET:
            value = None
        ok, converted = _as_type(value, known)
        if ok:
            self._set(node, key, full, converted, where)
            return
        advice = f"; `{full} VALUE` on the command line replaces this section" if isinstance(value, dict) else ""
        self._fault(f"{where}: {full} is {_show(value)}; it must be {_words_of_type(known)}{advice}", full)

    def _set(self, node: CN, key: str, full: str, value: Any, where: str) -> None:
        node[key] = value
        self.where[full] = where
        self.faults.pop(full, None)  # of an earlier layer

    def _fault(self, text: str, full: str = "") -> None:
        """Take note of a fault; with `full`, a later layer that sets this key mends it."""
        self.faults[full or text] = text

    def overrides(self, words: Sequence[str] | Mapping[str, Any]) -> None:
        """Pairs KEY VALUE as on a command line, or a mapping of keys, which may be dotted, to values."""
        if isinstance(words, Mapping):
            for full, value in words.items():
                section, _, last = full.rpartition(".")
                if _entries(section):
                    self.free(reduce(CN.__getitem__, section.split("."), self.cfg), last, full, value, "overrides")
                else:
                    self.tree(_nested({full: value}), lambda _: "overrides", replaces=True)
            return
        words = [str(w) for w in words]
        if len(words) % 2:
            last = words[-1]
            advice = f": write `{last.replace('=', ' ', 1)}`" if "=" in last else ""
            raise ConfigError(f"overrides are pairs KEY VALUE; {last!r} has no value{advice}")
        for full, text in zip(words[::2], words[1::2], strict=True):
            node, parts = self.cfg, full.split(".")
            for part in parts[:-1]:
                node = node.get(part) if isinstance(node, CN) else None
            where = "command line"
            section = ".".join(parts[:-1])
            is_open = bool(_entries(full) or _entries(section))
            # Does the key exist?
            if full in REMOVED:
                self._fault(f"{where}: unknown key {full}: {REMOVED[full].what_to_do()}")
            elif not isinstance(node, CN) or (parts[-1] not in node and not is_open):
                self._fault(f"{where}: unknown key {full}; {suggest(full, list(flatten(self.cfg)))}")
            elif not is_open and isinstance(node[parts[-1]], CN):
                self._fault(f"{where}: {full} is a section; set a key below it")
            # Text is taken as it stands, all else is read as yaml
            elif not is_open and _is_text(KEYS.get(full, Key(node[parts[-1]]))):
                self.value(node, parts[-1], full, text, where)
            else:
                try:
                    value, _ = parse_yaml(text)
                except ConfigError as e:
                    self._fault(f"{where}: {full} is {_show(text)}; {e}")
                    continue
                if _entries(full):
                    self.replaced(node[parts[-1]], full, value, where)
                elif is_open:
                    self.free(node, parts[-1], full, value, where)
                else:
                    self.value(node, parts[-1], full, value, where)

    def replaced(self, node: CN, full: str, value: Any, where: str) -> None:
        """Replace an open section as a whole."""
        if isinstance(value, dict):
            node.clear()
            for key in [k for k in self.faults if k == full or k.startswith(f"{full}.")]:
                del self.faults[key]  # of an earlier layer
            self.tree(value, lambda _: where, node, full + ".")
        else:
            self._fault(f"{where}: {full} is {_show(value)}; it must be a mapping such as {{teacher: 1.0}}", full)

    def check(self) -> None:
        flat = flatten(self.cfg)
        for full, key in KEYS.items():
            if key.limit and not key.entries and flat[full] is not key.default and not _holds(key.limit, flat[full]):
                where = self.where.get(full, "default")
                self._fault(f"{where}: {full} is {_show(flat[full])}; it must be {key.limit.words}")
        if self.faults:
            raise ConfigError("\n".join(self.faults.values()))


def _holds(limit: Limit, value: Any) -> bool:
    try:
        return bool(limit.test(value))
    except TypeError:
        return False


def _entries(full: str) -> Limit | None:
    """The limit of a section's entries, if its keys are arbitrary."""
    return KEYS[full].entries if full in KEYS else None


def _is_text(key: Key) -> bool:
    """Whether a value on the command line is taken as it stands, instead of being read as yaml."""
    return (key.kind or type(key.default)) is str and not (key.limit and key.limit.types)


def _as_type(value: Any, key: Key) -> tuple[bool, Any]:
    """(valid, value) for a key: an int is accepted as a float; no other conversion is made."""
    default = key.default
    if key.limit is not None and type(value) in key.limit.types:
        return True, value
    if key.kind is object:  # a key that a user's class reads, and of which no more is known
        return True, value
    if key.kind is not None:  # not set: null in yaml; an empty text on the command line and in mdistiller's files
        if value is None or value == "":
            return True, None
        default = key.kind()  # of its type, for the checks below
    if isinstance(default, list) and isinstance(decoded := _as_tuple(value), tuple):  # `(16, 16)` in mdistiller's files
        value = list(decoded)
    if isinstance(default, tuple):  # of a method written for mdistiller: yaml has lists alone, and yacs reads (a, b)
        value = _as_tuple(value)
    if type(default) is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not type(default):
        return False, value
    if isinstance(value, float) and not math.isfinite(value):
        return False, value
    # Python keeps the bytes of a name that is not UTF-8 as surrogates, which no file here can hold
    if isinstance(value, str) and any(ord(c) < 32 or "\ud800" <= c <= "\udfff" for c in value):
        return False, value
    if isinstance(value, list):
        kinds = {type(v) for v in default} or {int, float, str}
        if not all(type(v) in kinds for v in value):
            return False, value
    return True, value


def checked_value(name: str, value: Any, default: Any, limit: Limit | None) -> Any:
    """`value` for a key with this default; ConfigError naming it if its type or the limit does not allow it."""
    key = Key(default, limit=limit)
    fits, value = _as_type(value, key)
    if not fits:
        raise ConfigError(f"{name} is {_show(value)}; it must be {_words_of_type(key)}")
    if limit is not None and not _holds(limit, value):
        raise ConfigError(f"{name} is {_show(value)}; it must be {limit.words}")
    return value


def _as_tuple(value: Any) -> Any:
    """A list, or text as `(16, 16)`, as a tuple; anything else as it is."""
    if isinstance(value, str) and value.startswith("("):
        with contextlib.suppress(ValueError):
            value = literal(value)
    return tuple(value) if isinstance(value, list) else value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _words_of_type(key: Key) -> str:
    kind = (key.kind or type(key.default)).__name__
    words = {
        "str": "text in UTF-8 without control characters",
        "int": "a whole number",
        "float": "a finite number",
        "bool": "True or False",
        "list": "a list",
    }
    optional = ", or null" if key.kind else ""
    return (
        words.get(kind, kind) + optional + (" with elements of the same type as its default" if kind == "list" else "")
    )


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"SOLVER.EPOCHS": 3}` as `{"SOLVER": {"EPOCHS": 3}}`."""
    nested: dict[str, Any] = {}
    for full, value in flat.items():
        *sections, last = full.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        if isinstance(value, Mapping):
            node.setdefault(last, {}).update(_nested(value))
        else:
            node[last] = value
    return nested
