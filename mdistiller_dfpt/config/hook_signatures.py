"""Compares a user's class with this package's base classes: signatures of methods, types of attributes."""

import inspect
from typing import Any

from ..errors import PluginError

PACKAGE = __name__.partition(".")[0]


def check_signatures(cls: type) -> None:
    """PluginError if a public method of a class cannot be called as that of the first base class that defines it.

    The same for an attribute of another type.
    """
    ours = [base for base in reversed(cls.__mro__) if base.__module__.partition(".")[0] == PACKAGE]
    contract = {name: value for base in reversed(ours) for name, value in vars(base).items() if name[0] != "_"}
    for name, expected in contract.items():
        mine = inspect.getattr_static(cls, name)
        if mine is expected:
            continue
        is_computed = hasattr(type(mine), "__get__")  # a property, a cached property or another descriptor
        if isinstance(expected, bool | int | str) and not isinstance(mine, type(expected)) and not is_computed:
            raise PluginError(cls, f"`{name}` is {mine!r}; it must be of type {type(expected).__name__}")
        if isinstance(expected, property) and inspect.isfunction(mine):
            raise PluginError(cls, f"`{name}` is a method; it must be a property: write @property above it")
        if inspect.isfunction(expected) and not _can_be_called_as(expected, mine, cls):
            raise PluginError(cls, f"`{name}{_parameters(mine)}` must accept the arguments of "
                                   f"`{name}{_parameters(expected)}`")  # fmt: skip


def _can_be_called_as(expected: Any, mine: Any, cls: type) -> bool:
    """Whether calls with all arguments of `expected`, and with the required ones alone, suit `mine`."""
    if not hasattr(mine, "__get__"):  # a module or a callable object: its own business
        return callable(mine)
    parameters = list(inspect.signature(expected.__get__(cls, cls)).parameters.values())
    try:
        signature = inspect.signature(mine.__get__(cls, cls))
        for given in (parameters, [p for p in parameters if p.default is p.empty]):
            by_name = {p.name: p for p in given if p.kind is p.KEYWORD_ONLY}
            signature.bind(*(p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)), **by_name)
    except (TypeError, ValueError):  # ValueError: a method without `self`
        return False
    return True


def _parameters(method: Any) -> str:
    """`(self, batch)`: the names of a method's parameters, without annotations."""
    try:
        names = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return ""
    by_name = [p for p in names if p.kind is p.KEYWORD_ONLY]
    words = [str(p.replace(annotation=p.empty)) for p in names if p not in by_name]
    words += ["*", *(str(p.replace(annotation=p.empty)) for p in by_name)] if by_name else []
    return f"({', '.join(words)})"
