"""Checks what the hooks of a method or a teacher return, where they are called; PluginError names the class."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import PluginError
from ..losses import Terms
from ..teachers import ORIGINAL, Teacher
from ..teachers.hooked import Hooked
from .base import Distiller, Method


def _all(kind: type, value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(v, kind) for v in value)


def _are_groups(value: Any) -> bool:
    return _all(dict, value) and all(
        isinstance(group.get("params"), Iterable) and not isinstance(group["params"], Tensor) and "lr_factor" in group
        for group in value
    )


def _are_scalars(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(v, Tensor) and v.shape == () for v in value.values())


def _are_weights(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(v, int | float) and v > 0 for v in value.values())
    )


HOOKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "path_names": (f"a tuple of names, with {ORIGINAL!r}", lambda value: _all(str, value) and ORIGINAL in value),
    "default_paths": ("a dict {path: weight > 0}, not empty", _are_weights),
    "deployed": ("a torch.nn.Module", lambda value: isinstance(value, nn.Module)),
    "frozen": ("a list of networks", lambda value: _all(nn.Module, value)),
    "hooked": ("a list of methods and teachers", lambda value: _all(Hooked, value)),
    "parameter_groups": ('a list of dicts {"params": [...], "lr_factor": 1.0}', _are_groups),
    "training_state": ("a dict of tensors", lambda value: isinstance(value, Mapping)),
    "take_logged": ("a dict from names to scalar tensors", _are_scalars),
}
"""What each hook without arguments must return."""


def returned(part: Hooked, name: str, value: Any) -> Any:
    """The value that a hook returned; PluginError if the loop cannot use it."""
    words, fits = HOOKS[name]
    if not fits(value):
        raise PluginError(type(part), f"`{name}` returned {_short(value)}; it must return {words}")
    return value


def check_hooks(part: Hooked) -> None:
    """Call each hook without arguments once; PluginError if one returns what the loop cannot use."""
    for name in HOOKS:
        if hasattr(type(part), name):
            value = getattr(part, name)
            returned(part, name, value() if inspect.isroutine(value) else value)
    if isinstance(part, Teacher):
        if unknown := [path for path in part.default_paths() if path not in part.path_names()]:
            raise PluginError(type(part), f"`default_paths` names {', '.join(unknown)}; `path_names` returned "
                                          f"{', '.join(part.path_names())}")  # fmt: skip
        for path in part.path_names() if part.needs_network else ():
            if not isinstance(network := part.network_of(path), nn.Module):
                raise PluginError(type(part), f"`network_of` returned {_short(network)} for the path {path!r}; it must "
                                              "return a network")  # fmt: skip


def step_of(method: Method, result: Any, samples: int, num_classes: int) -> tuple[Tensor, Terms]:
    """The (logits, terms) that `forward` returned for a batch; PluginError if they are of another kind or shape."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise PluginError(type(method), f"`forward` returned {_short(result)}; it must return (logits, terms)")
    _check_logits(method, "forward", result[0], (samples, num_classes))
    return result


def paths_of(method: Method, image: Tensor, num_classes: int) -> Mapping[str, Tensor]:
    """The logits that `evaluated_paths` returned for images; PluginError if they are of another kind or shape."""
    paths = method.evaluated_paths(image)
    if not isinstance(paths, Mapping) or "student" not in paths:
        raise PluginError(type(method), f"`evaluated_paths` returned {_short(paths)}; it must return {{path: logits}} "
                                        "with a 'student'")  # fmt: skip
    its = method.teacher.path_names() if isinstance(method, Distiller) else ()
    for path, logits in paths.items():
        owner = method.teacher if isinstance(method, Distiller) and path in its else method
        _check_logits(owner, "evaluated_paths", logits, (len(image), num_classes))
    return paths


def _check_logits(part: Hooked, hook: str, logits: Any, shape: tuple[int, int]) -> None:
    if not isinstance(logits, Tensor) or logits.shape != shape:
        found = f"logits of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else _short(logits)
        raise PluginError(type(part), f"`{hook}` returned {found}; the logits must be of shape {shape}: (samples, "
                                        "classes)")  # fmt: skip


def _short(value: Any) -> str:
    """A value in a few words."""
    text = " ".join(repr(value).split())
    if len(text) <= 60 and "object at" not in text and "tensor(" not in text:
        return text
    keys = f" with {', '.join(map(repr, value))}" if isinstance(value, Mapping) else ""
    return f"a {type(value).__name__}{keys}"
