"""The allowed values of a key."""

import hashlib
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple


class Limit(NamedTuple):
    """The allowed values of a key: a description for error messages, the check, and other accepted types."""

    words: str
    test: Callable[[Any], bool]
    types: tuple[type, ...] = ()


PER_CHANNEL = Limit("three numbers", lambda v: len(v) == 3 and all(type(x) in (int, float) for x in v))
DEVIATIONS = Limit("three numbers > 0", lambda v: PER_CHANNEL.test(v) and min(v) > 0)
POSITIVE = Limit("> 0", lambda v: v > 0)
NOT_NEGATIVE = Limit(">= 0", lambda v: v >= 0)
AT_LEAST_ONE = Limit(">= 1", lambda v: v >= 1)
SOME_THREADS = Limit("in 1 .. 1024", lambda v: 1 <= v <= 1024)  # of 100,000, PyTorch ends without a word
AT_LEAST_EIGHT = Limit(">= 8", lambda v: v >= 8)
CROPPED = Limit("in (0, 1]", lambda v: 0 < v <= 1)
FRACTION = Limit("in [0, 1)", lambda v: 0 <= v < 1)
A_TEMPERATURE = Limit("in (0, 1000]", lambda v: 0 < v <= 1000)  # above, T^2 KL in float32 is off by over 0.4 %
A_SEED = Limit("in 0 .. 2**31 - 1", lambda v: 0 <= v < 2**31)
WEIGHT = Limit("a weight > 0", lambda v: v > 0)


def one_of(*choices: str) -> Limit:
    """The limit of a key that takes one of these strings."""
    return Limit(f"one of {', '.join(choices)}", lambda v: v in choices)


def names(what: str) -> Limit:
    """The limit of a key that takes a list of names."""
    return Limit(f"a list of {what}", lambda v: all(type(n) is str and n for n in v))


def distinct(what: str) -> Limit:
    """The same, none of which is named twice."""
    some = names(what)
    return Limit(f"a list of distinct {what}", lambda v: some.test(v) and len(set(v)) == len(v))


_NAME = re.compile(r"[\w.,=+-]{1,128}(/[\w.,=+-]{1,128}){0,7}")


def without_other_characters(name: str) -> str:
    """A name with all characters replaced by `_` that names of directories do not have here."""
    return re.sub(r"[^\w.,=+/-]+", "_", name)


def as_directory(name: str) -> str:
    """A name, such as a fork's tag `a&b,[1,2]`, as that of a directory; different names have different ones."""
    plain = without_other_characters(name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def is_name(value: str) -> bool:
    """Whether this names a directory that cannot leave the output directory; empty for a derived name."""
    directory = as_directory(value)
    parts = directory.split("/")
    fits = _NAME.fullmatch(directory) is not None and all(len(part.encode()) <= 255 for part in parts)
    return value == "" or (fits and ".." not in value and "." not in parts)


IS_NAME = Limit(
    "components of up to 128 characters and 255 bytes, separated by /, without `..` or a single `.`", is_name
)
IS_DEVICE = Limit("auto, cpu, cuda or cuda:N", lambda v: re.fullmatch(r"auto|cpu|cuda(:\d+)?", v) is not None)
IS_INTERVAL = Limit('"N steps" or "N minutes"', lambda v: re.fullmatch(r"[1-9]\d*( steps?| minutes?)", v) is not None)
NETWORKS = names("network names")
METHODS = Limit(
    "the name of a method, or a list of distinct names",
    lambda v: isinstance(v, str) or (len(v) > 0 and all(type(n) is str for n in v) and len(set(v)) == len(v)),
    types=(list,),
)
NUMBERED = Limit(
    "whole numbers from 0 to at least 1, without gaps",
    lambda v: all(type(c) is int for c in v) and len(set(v)) > 1 and set(v) == set(range(len(set(v)))),
)
INCREASING = Limit(
    "increasing whole numbers >= 1",
    lambda v: all(type(e) is int and e >= 1 for e in v) and all(a < b for a, b in pairwise(v)),
)
