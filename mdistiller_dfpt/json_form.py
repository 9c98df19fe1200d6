"""The form of records that are read from files: which keys they have, and what kind of value each of them is."""

import math
import re
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
    "earlier_code?": [str],
    "normalisation?": {str: str},
    "start?": str,
}
"""What a run is, in its directory, its results and its checkpoints."""

ENVIRONMENT = {
    **{f"{key}?": int for key in ("epoch", "step", "prepared", "world_size")},
    "device?": str,
    "cpu?": str,
    "threads?": (int, str),  # in words where the processes of a run differ
    "arithmetic?": str,
    "versions?": {str: ANY},
    "commit?": str,
}
"""What a run computed in, and the progress at which that began, in its results and its checkpoints."""

SHARE, COUNT = (float, None), range(2**63)
EVALUATION = {
    **dict.fromkeys(("top1", "top5", "nll", "ece", "macs"), float),
    **dict.fromkeys(("temperature", "nll_half", "ece_half", "nll_scaled", "ece_scaled"), SHARE),
    "teacher?": {"agreement": float, "kl": float},
    "parameters": COUNT,
    "bytes": COUNT,
    "milliseconds": {"1": float, "64": float},
    "device?": str,
    "cpu?": str,
    "threads?": int,
    "per_class": {str: SHARE},
    "confusion": [[COUNT]],
    "reliability": [{"confidence": float, "accuracy": float, "images": COUNT}],
    "most_confused": [{"class": str, "predicted": str, "images": COUNT}],
    "sha256?": str,
    "worst": [
        {
            "image": str,
            "label": str,
            "predicted": str,
            "probability": float,
            "thumbnail?": re.compile("data:image/png;base64,[A-Za-z0-9+/=]*"),  # a page loads no other
        }
    ],
}
"""What is measured of a student, in the directory of its run."""

CORRUPTED = {
    "clean": float,
    "mean": float,
    "mean_by_corruption": {str: float},
    "constants": str,
    "pixels": [COUNT],
    "seed": int,
    "sha256": str,
}
"""The accuracies of a student on corrupted images, in the directory of its run."""

SIDE = range(1, 4097)  # of an image, in pixels: a larger one would be built in memory before anything is compared
PREPROCESSING = {
    "resize": ([SIDE], None),
    "crop": ([SIDE, SIDE], None),
    "mean": [float, float, float],
    "std": [float, float, float],
    "size": [SIDE, SIDE],
    "interpolation?": re.compile("bilinear|bicubic"),
    "upright?": bool,
}
"""How an image becomes the input of a network."""

RECORD = {
    **dict.fromkeys(("config", "method", "student", "teacher", "data", "version"), str),
    "classes": [str],
    "num_train": COUNT,
    "image_shape": [range(3, 4), SIDE, SIDE],
    "preprocessing": (PREPROCESSING, None),
    "epoch": COUNT,
    "accuracy": {"top1?": float, "top5?": float},
    "sha256?": str,
    "folder?": str,
    "code?": {str: str},
    "format": int,
}
"""What a file of weights says of its student."""

CONFIG = {"PLUGINS?": [str], "DISTILLER?": {str: ANY}, "SOLVER?": {str: ANY}}
"""What is read of the config of a run before, or without, its validation."""


def fault_of(value: Any, form: Any, place: str = "") -> str | None:
    """What of a value does not have this form, in a few words; None if it has.

    A form is `int` (in 64 bits), a range of such, `float` (finite, or an int), `str`, a pattern of all of it, `bool`;
    `[form]` for a list of such, `[form, form]` for one of this length; `{"key": form, "key?": form, str: form}` for a
    mapping with these keys, those with ? optional, and others of the form of `str`, or any others where there is none;
    a tuple of forms, or None in it, for one of them; ANY.
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
        if len(form) > 1 and len(value) != len(form):
            return f"{where} has {len(value)} entries, not {len(form)}"
        forms = form * len(value) if len(form) == 1 else form
        return _first(fault_of(one, forms[i], f"{place}[{i}]") for i, one in enumerate(value))
    if isinstance(form, Mapping):
        return _fault_of_mapping(value, form, place)
    if form is None:
        return None if value is None else f"{where} is not null"
    if isinstance(form, range):
        fits = _is_leaf(value, int) and value in form
        return None if fits else f"{where} is {str(value)[:40]!r}; it must be in {form.start} .. {form.stop - 1}"
    if isinstance(form, re.Pattern):
        return None if isinstance(value, str) and form.fullmatch(value) else f"{where} is not as it is written here"
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
