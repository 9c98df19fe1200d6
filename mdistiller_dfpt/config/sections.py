"""The sections of methods, kinds of teacher and augmentations, declared in their files; all defaults."""

from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode as CN

from ..registry import TABLES, suggest
from .conditions import When
from .keys import KEYS, REMOVED, Key
from .keywords import flatten
from .limits import Limit
from .removed import Removed

_NODES: dict[str, CN] = {}
ADDED: dict[str, Any] = {}  # keys that a user's code adds, in a section of this project or not: their defaults
TABLES.extend((KEYS, REMOVED, _NODES, ADDED))


def declare_node(
    name: str, node: CN, limits: Mapping[str, Limit], removed: Mapping[str, Removed] | None = None,
    when: Mapping[str, When] | None = None,
) -> None:  # fmt: skip
    """Add a section, declared in the file of its method or kind of teacher; limits by path below the section.

    `removed`: keys of earlier versions. `when`: conditions on the section for its keys to have an effect.

    KeyError if the name is taken, or if a limit or a condition is given for a key that the section does not have.
    """
    if name in _NODES or any(full.partition(".")[0] == name for full in KEYS):
        raise KeyError(f"{name!r} is already a section of the config")
    known, when = flatten(node), when or {}
    for what, keys in (("a limit", limits), ("a condition", when)):
        for key in keys:
            if key not in known:
                raise KeyError(f"{name}: {what} is given for {key!r}; {suggest(key, list(known))}")
    _NODES[name] = node
    used = When("its method, kind of teacher or augmentation is not part of this run", lambda s: name in s.sections)
    for key, default in known.items():
        KEYS[f"{name}.{key}"] = Key(default, "", limits.get(key), _both(name, used, when.get(key)))
    REMOVED.update({f"{name}.{key}": entry for key, entry in (removed or {}).items()})


def _both(name: str, used: When, of_section: When | None) -> When:
    """The condition that a section is used, and the one of its key."""
    if of_section is None:
        return used
    return When(of_section.otherwise, lambda s: used.test(s) and of_section.test(s.cfg[name]))


def default_cfg() -> CN:
    """A fresh copy of all keys with their defaults, including the sections of all methods and kinds of teacher."""
    cfg = CN()
    for full, key in KEYS.items():
        if full.partition(".")[0] not in _NODES and full not in ADDED:
            put(cfg, full, CN() if key.entries else list(key.default) if type(key.default) is list else key.default)
    for name, node in _NODES.items():
        cfg[name] = node.clone()
    for full, default in ADDED.items():
        put(cfg, full, list(default) if type(default) is list else default)
    return cfg


def put(cfg: CN, full: str, value: Any) -> None:
    """Set a key by its full name, with the sections that it needs."""
    *sections, last = full.split(".")
    for section in sections:
        cfg = cfg.setdefault(section, CN())
    cfg[last] = value
