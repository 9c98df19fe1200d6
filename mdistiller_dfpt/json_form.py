"""The form of records that are read from files: which keys they have, and what kind of value each of them is."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

ANY = object()
"""Any value."""

_NETWORK = {"top1": float, str: float}
_EVALUATION = {"student": _NETWORK, "kl?": {str: float}, str: _NETWORK}
EPOCH = {
    "epoch": int,
    "lr?": float,
    "train?": {str: float},
    "test?": _EVALUATION,
    "validation?": _EVALUATION,
    "seconds?": float,
    "images_per_second?": float,
}
"""The record of an epoch, in results and checkpoints."""

IDENTITY = {
    "config": {str: ANY},
    "data?": ({"classes?": int, "train_images?": int, "test_images?": int, "sha256": str}, None),
    "teachers?": ([{"name": str, "sha256": str}], None),
    "continued?": [ANY],
    "code?": {str: str},
    "normalisation?": {str: str},
    "start?": str,
}
"""What a run is, in its directory, its results and its checkpoints."""


def fault_of(value: Any, form: Any, place: str = "") -> str | None:
    """What of a value does not have this form, in a few words; None if it has.

    A form is `int` (in 64 bits), `float` (finite, or an int), `str` or `bool`; `[form]` for a list of such;
    `{"key": form, "key?": form, str: form}` for a mapping with these keys, those with ? optional, and others of the
    form of `str`, or any others where there is none; a tuple of forms, or None in it, for one of them; ANY.
    """
    where = place or "it"
    if form is ANY:
        return None
    if isinstance(form, tuple):
        faults = [fault_of(value, one, place) for one in form]
        return None if None in faults else faults[0]
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return _first(fault_of(one, form[0], f"{place}[{i}]") for i, one in enumerate(value))
    if isinstance(form, Mapping):
        return _fault_of_mapping(value, form, place)
    if form is None:
        return None if value is None else f"{where} is not null"
    return None if _is_leaf(value, form) else f"{where} is {str(value)[:40]!r}, no {form.__name__}"


def _fault_of_mapping(value: Any, form: Mapping[Any, Any], place: str) -> str | None:
    if not isinstance(value, dict):
        return f"{place or 'it'} is no mapping"
    named = {key.rstrip("?"): one for key, one in form.items() if key is not str}
    missing = [key for key in named if key in form and key not in value]
    if missing:
        return f"{_below(place, missing[0])} is missing"
    others = form.get(str, ANY)
    return _first(fault_of(one, named.get(key, others), _below(place, key)) for key, one in value.items())


def _below(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _is_leaf(value: Any, form: type) -> bool:
    if form is float and type(value) is float:
        return math.isfinite(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return form in (int, float) and abs(value) < 2**63
    return type(value) is form


def _first(faults: Iterable[str | None]) -> str | None:
    return next((fault for fault in faults if fault is not None), None)
