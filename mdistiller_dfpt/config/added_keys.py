"""Keys that come with a method of the user's which reads the whole config, and the defaults that it expects."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from yacs.config import CfgNode as CN

from ..registry import TABLES
from .conditions import When
from .keys import KEYS, Key
from .sections import ADDED, put

_DEFAULTS: dict[str, dict[str, Any]] = {}  # by method: those of its fork that differ from this project's
TABLES.append(_DEFAULTS)


def add_keys(values: Mapping[str, Any]) -> list[str]:
    """Declare the keys, with their defaults by full name, that the config does not have; return those that it cannot.

    Such a key is a section where the config has a value, or a value where it has a section.
    """
    sections = {full[:i] for full in KEYS for i, letter in enumerate(full) if letter == "."}
    impossible = []
    for full, default in values.items():
        if full in KEYS:
            continue
        if full in sections or any(full.startswith(f"{known}.") for known in KEYS):
            impossible.append(full)
            continue
        KEYS[full] = Key(default, when=_read(full), kind=str if default is None else None)
        ADDED[full] = default
    return impossible


def add_unset(names: Iterable[str]) -> list[str]:
    """Declare keys without a default, of any type, that a class reads and no config has; return all such keys."""
    names, before = sorted(names), set(KEYS)
    add_keys(dict.fromkeys(names))
    for full in KEYS.keys() - before:
        KEYS[full] = replace(KEYS[full], kind=object)
    return [full for full in names if full in KEYS and KEYS[full].kind is object]


def _read(full: str) -> When:
    return When("no method of this run reads it", lambda s: full in s.sections)


def expect(method: str, values: Mapping[str, Any]) -> None:
    """Take note of the defaults, by full name, that a method expects; those equal to the config's are not kept."""
    expected = {full: _as_ours(value, KEYS[full].default) for full, value in values.items() if full in KEYS}
    _DEFAULTS[method] = {full: value for full, value in expected.items() if value != KEYS[full].default}


def apply_expected(cfg: CN, given: Iterable[str]) -> None:
    """Set the keys that neither a file nor an override gives to the defaults that the run's method expects."""
    name = cfg.DISTILLER.TYPE
    for full, value in _DEFAULTS.get(name, {}).items() if isinstance(name, str) else ():
        if full not in given:
            put(cfg, full, list(value) if isinstance(value, list) else value)


def _as_ours(value: Any, default: Any) -> Any:
    """A value of a fork, converted to the type of this config's default where nothing is lost."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(default) is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return list(value) if isinstance(value, tuple | list) else value
