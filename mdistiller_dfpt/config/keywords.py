"""Turns a config section into plain keyword arguments: code below this level never sees the config."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from yacs.config import CfgNode as CN


def flatten(node: CN | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of all leaves."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def keyword_of(key: str) -> str:
    """The keyword of a key: its path in lower case, without `LOSS` (`FEAT.DIM` -> `feat_dim`)."""
    return "_".join(part.lower() for part in key.split(".") if part != "LOSS")


def keywords(node: CN) -> dict[str, Any]:
    """The values of a section by keyword."""
    return {keyword_of(key): value for key, value in flatten(node).items()}


def keywords_for(cls: Any, node: CN) -> dict[str, Any]:
    """The values of a class's own keys by keyword; a plugin may have added others to the same section."""
    own = keywords(cls.config)
    return {keyword: value for keyword, value in keywords(node).items() if keyword in own}


def asked_for(cls: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the offered keyword arguments that a class's constructor names."""
    named = signature(cls).parameters
    return {key: value for key, value in offered.items() if key in named}
