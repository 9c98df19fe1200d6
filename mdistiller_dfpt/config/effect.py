"""Which keys have an effect in a run, and which of those decide its result."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from yacs.config import CfgNode as CN

from .conditions import Situation
from .keys import KEYS, REMOVED
from .keywords import flatten
from .policy import PRETRAINED

REVISIONS = {("SOLVER.TRAINER", "dot"): 2, ("SOLVER.TYPE", "AdamW"): 2}
"""Of values whose meaning has changed, as `revision` of a method: runs of before are other runs."""


def value_of(cfg: CN, full: str) -> Any:
    """The value of a key by its full name; a plain mapping for a section with arbitrary keys."""
    value: Any = cfg
    for part in full.split("."):
        value = value[part]
    return dict(value) if isinstance(value, CN) else value


def without_effect(s: Situation) -> list[str]:
    """One line for each key whose value differs from its default and has no effect in this run."""
    lines = []
    for full, key in KEYS.items():
        value = value_of(s.cfg, full)
        if value != key.default and not key.when.test(s):
            lines.append(f"{full} {value if value != '' else repr(value)} has no effect here: {key.when.otherwise}")
    return lines


def deciding_values(s: Situation) -> dict[str, Any]:
    """The keys that decide a run's result and differ from their defaults; yacs values as plain ones.

    With them, as `<name>.revision`, that of each method, trainer and optimiser that has changed under equal keys.
    """
    values = {}
    s = replace(s, processes=2)  # a run may go on with another number of processes
    for full, key in KEYS.items():
        if key.decides and key.when.test(s) and (value := value_of(s.cfg, full)) != key.default:
            values[full] = deciding(full, value)
    of_values = {value: number for (full, value), number in REVISIONS.items()
                 if KEYS[full].when.test(s) and value_of(s.cfg, full) == value}  # fmt: skip
    return values | {f"{name}.revision": number for name, number in {**s.revisions, **of_values}.items()}


def deciding(full: str, value: Any) -> Any:
    """What decides of a key's value, as a plain value: of LOGITS_CACHE, not the folder but its rounding.

    Of STUDENT_CKPT, not the place of a file, whose content is recorded beside the config.
    """
    if full == "DISTILLER.STUDENT_CKPT" and value and value.partition(":")[0] != PRETRAINED:
        return "file"
    if full == "DISTILLER.LOGITS_CACHE":
        return "float16" if value else None
    return list(value) if isinstance(value, tuple) else value


def differing(mine: Mapping[str, Any], other: Mapping[str, Any], of_mine: str, of_other: str) -> list[str]:
    """One phrase for each key of `deciding_values` that differs; a missing one has its default."""
    lines: list[str] = []
    revisions: list[str] = []
    for full in sorted(set(mine) | set(other)):
        default = 1 if full.endswith(".revision") else KEYS[full].default if full in KEYS else None
        here, there = mine.get(full, default), other.get(full, default)
        if here != there:
            found = revisions if full.endswith(".revision") else lines
            one, two = _in_words(here, there)
            found.append(f"{full} {one}{' ' if of_mine else ''}{of_mine}, {two} {of_other}")
    return lines or revisions  # a run of another method has another revision too


def _in_words(*values: Any) -> list[str]:
    """Values to read: numbers with four digits, if these tell them apart."""
    short = [f"{value:.4g}" if type(value) is float else str(value) for value in values]
    return short if len(set(short)) == len(values) else [str(value) for value in values]


def of_earlier_version(written: CN | Mapping[str, Any]) -> dict[str, Any]:
    """The flat values of a config of an earlier version, under the current keys and with None for `not set`."""
    flat = flatten(dict(written))
    today = {key: value for key, value in flat.items() if key not in REMOVED}
    today |= {r.now: flat[key] for key, r in REMOVED.items() if r.now and flat.get(key, r.default) != r.default}
    unset = [key for key, value in today.items() if key in KEYS and KEYS[key].kind and value in (0, "")]
    return today | dict.fromkeys(unset)
