"""The space of a search: a yaml file of keys and the values to try, checked by the types and limits of the keys."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode as CN

from ..config.effect import value_of
from ..config.keys import KEYS
from ..config.yaml_reader import read_yaml
from ..distillers.choice import situation
from ..errors import ConfigError
from ..interop.plugins import load_cfg
from ..trusted_files import check_trust

KINDS = ("float", "int", "choice")
FORMS = "{float: [LOW, HIGH]}, {int: [LOW, HIGH]}, either with log: true, or {choice: [VALUE, ...]}"
NOT_SEARCHED = {
    "SOLVER.SEED": "give --seeds: each trial is the mean over them",
    "DATASET.SEED": "give --seeds: each trial is the mean over them",
    "SOLVER.EPOCHS": "trials are compared at equal length: give it as KEY VALUE",
    "DATASET.TYPE": "trials are judged by the same images",
    "DATASET.SUPERCLASSES": "trials are judged by the same images",
    "DATASET.VALIDATION": "trials are judged by the same images: give it as KEY VALUE",
}
"""Keys that change what a trial is judged by, and what to do instead."""


class Dimension(NamedTuple):
    """The values to try of one key: from `values[0]` to `values[1]`, or one of `values`."""

    key: str
    kind: str  # float, int or choice
    values: tuple[Any, ...]
    log: bool
    where: str  # file:line

    def has(self, value: Any) -> bool:
        """Whether a value is in the space."""
        if self.kind == "choice":
            return value in self.values
        fits = type(value) in (int, float) and self.values[0] <= value <= self.values[1]
        return fits and (self.kind == "float" or value == int(value))

    def coded(self, value: Any) -> Any:
        """A value of the space as in the journal: of a choice, its word."""
        return as_word(next(v for v in self.values if v == value)) if self.kind == "choice" else value

    def decoded(self, value: Any) -> Any:
        """A value in the journal as that of the config."""
        return next(v for v in self.values if as_word(v) == value) if self.kind == "choice" else value

    @property
    def words(self) -> dict[str, Any]:
        """The entry of the file."""
        return {self.kind: list(self.values)} | ({"log": True} if self.log else {})


def as_word(value: Any) -> str:
    """A value of a key as on a command line, from which it is read back."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, list | dict) else repr(value)


def in_words(values: Mapping[str, Any]) -> str:
    """Values of keys to read, with four digits."""
    shown = {key: f"{value:.4g}" if type(value) is float else as_word(value) for key, value in values.items()}
    return ", ".join(f"{key} {value or 'null'}" for key, value in shown.items())


def load_space(path: Path) -> list[Dimension]:
    """The dimensions of a file, in its order; ConfigError that names file and line of every fault.

    Keys are written as in a config (`SOLVER: {LR: ...}`) or in full (`SOLVER.LR: ...`).
    """
    data, lines = read_yaml(path)
    found: dict[str, Dimension] = {}
    faults = []
    for key, entry in _entries(data):
        where = f"{path}:{lines.get(key, 1)}"
        try:
            if key in found:
                raise ConfigError(f"{where}: {key} is set twice")
            found[key] = _dimension(key, entry, where)
        except ConfigError as e:
            faults.append(str(e))
            continue
        check_trust(path, {key: found[key].values}, lines)
    if faults:
        raise ConfigError("\n".join(faults))
    if not found:
        raise ConfigError(f"{path}: no key to search; write KEY: {FORMS}")
    return list(found.values())


def _entries(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(full key, its entry) of all keys below a section."""
    for key, value in data.items():
        full = prefix + key
        if not isinstance(value, dict) or not value or any(word in (*KINDS, "log") for word in value):
            yield full, value
        else:
            yield from _entries(value, f"{full}.")


def _dimension(key: str, entry: Any, where: str) -> Dimension:
    if not isinstance(entry, dict) or not entry:
        raise ConfigError(f"{where}: {key} is {entry}; write {key}: {FORMS}")
    kinds = [kind for kind in KINDS if kind in entry]
    unknown = sorted(set(entry) - {*KINDS, "log"})
    log = entry.get("log", False)
    if len(kinds) != 1 or unknown or type(log) is not bool or (log and kinds == ["choice"]):
        raise ConfigError(f"{where}: {key} is {dict(entry)}; it must be {FORMS}")
    kind, values = kinds[0], entry[kinds[0]]
    if not isinstance(values, list):
        raise ConfigError(f"{where}: {key}: {kind} is {values}; it must be a list")
    if kind == "choice":
        if len(values) < 2 or len({as_word(value) for value in values}) < len(values):
            raise ConfigError(f"{where}: {key}: choice is {values}; it must be at least two values, each once")
        return Dimension(key, kind, tuple(values), False, where)
    types, what = ((int,), "whole numbers") if kind == "int" else ((int, float), "numbers")
    fits = len(values) == 2 and all(type(v) in types and math.isfinite(v) for v in values) and values[0] < values[1]
    if not fits:
        raise ConfigError(f"{where}: {key}: {kind} is {values}; it must be two {what}, the smaller first")
    if log and values[0] <= 0:
        raise ConfigError(f"{where}: {key}: {kind} is {values}; with log: true, both must be > 0")
    return Dimension(key, kind, tuple(values if kind == "int" else map(float, values)), log, where)


def check_space(space: Sequence[Dimension], path: Path, given: Mapping[str, Any]) -> None:
    """ConfigError unless the config `path` accepts the ends of all ranges, and all choices, beside what is given.

    It lists all faults, one a line, with file and line.
    """
    where = {d.key: d.where for d in space}
    faults = []
    for d in space:
        if d.key in NOT_SEARCHED:
            faults.append(f"{d.where}: {d.key} cannot be searched: {NOT_SEARCHED[d.key]}")
        elif d.key in KEYS and not KEYS[d.key].decides:
            faults.append(f"{d.where}: {d.key} cannot be searched: its value changes no result")
        elif d.key in given:
            faults.append(f"{d.where}: {d.key} is to be searched, and is {given[d.key]} on the command line")
    for number in range(max(len(d.values) for d in space)):
        values = {d.key: d.values[min(number, len(d.values) - 1)] for d in space}
        try:
            load_cfg(path, {**given, **values})
        except ConfigError as e:
            faults += [_in_space(line, where) for line in str(e).splitlines()]
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))


def _in_space(fault: str, where: Mapping[str, str]) -> str:
    """A fault of a key with the place in the space that sets it."""
    found = re.match(r"overrides: (?:unknown key )?([\w.]+)", fault)
    return fault.replace("overrides", where[found[1]], 1) if found and found[1] in where else fault


def with_effect(
    space: Sequence[Dimension], path: Path, given: Mapping[str, Any], *, in_files: bool
) -> tuple[list[Dimension], dict[str, str]]:
    """The dimensions of keys that have an effect in a config, and of the others why they have none.

    A key may have an effect at another choice alone, as those of the cosine schedule have.
    """
    cfgs = [load_cfg(path, {**given, **values}) for values in ({}, *_each_choice(space))]
    situations = [situation(cfg, in_files=in_files) for cfg in cfgs]
    kept, others = [], {}
    for d in space:
        when = KEYS[d.key if d.key in KEYS else d.key.rpartition(".")[0]].when
        if any(when.test(s) for s in situations):
            kept.append(d)
        else:
            others[d.key] = f"no effect here: {when.otherwise}"
    return kept, others


def _each_choice(space: Sequence[Dimension]) -> Iterator[dict[str, Any]]:
    for d in space:
        for value in d.values if d.kind == "choice" else ():
            yield {d.key: value}


def own_values(space: Sequence[Dimension], cfg: CN) -> tuple[dict[str, Any], list[str]]:
    """The config's own values of the keys, as coded, and a line for each that is not in the space."""
    values, outside = {}, []
    for d in space:
        try:
            value = value_of(cfg, d.key)
        except KeyError:  # of an open section
            value = "not set"
        if d.has(value):
            values[d.key] = d.coded(value)
        else:
            outside.append(f"{d.key} is {value} in the config, which is not in the space")
    return values, outside
