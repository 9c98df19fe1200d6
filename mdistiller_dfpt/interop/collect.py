"""Registers the methods that a plugin adds: in this project's way, or in mdistiller's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config.added_keys import add_keys, add_unset, expect
from ..config.keywords import flatten
from ..config.sections import ADDED
from ..distillers.base import DISTILLERS
from ..registry import restored_on_error
from ..training.optim import OPTIMIZERS, SCHEDULES
from .from_mdistiller import Foreign, adapt, is_foreign, keys_read
from .mdistiller_package import Package, enter, fork_of, leave

OWN = ("EXPERIMENT", "DATASET", "DISTILLER", "LOG")
"""Sections whose defaults stay this project's, also for the method of a fork."""

REGISTRIES = (OPTIMIZERS, SCHEDULES)
"""Registries that a plugin may be the first to import."""


def collect(load: Callable[[], Any], path: Path | None = None) -> Any:
    """Import a plugin, and register the methods that it adds as in mdistiller.

    mdistiller's way is `distiller_dict["NAME"] = cls` with `CFG.NAME = CN(...)`. If a file registers nothing, its own
    classes are registered under the names that its fork gives them, else under their own in upper case. Keys that `CFG`
    has and this project does not are added to the config. `path`: the plugin's file, if it is given as one.
    """
    try:
        package = enter(path)
        with restored_on_error(package.registry, package.tree, *REGISTRIES):
            before, ours = dict(package.registry), set(DISTILLERS)
            module = load()
            added = {name: cls for name, cls in package.registry.items() if before.get(name) is not cls}
            if not added and set(DISTILLERS) == ours:
                names = package.names | {cls.__name__: name for name, cls in before.items()}
                own = [c for c in vars(module).values() if is_foreign(c) and c.__module__ == module.__name__]
                added = {names.get(cls.__name__, cls.__name__.upper()): cls for cls in own}
            _register(added, package, path)
    except BaseException:
        leave()
        raise
    return module


def _register(added: dict[str, Any], package: Package, path: Path | None) -> None:
    for name, cls in added.items():
        if is_foreign(cls) and name not in package.tree and hasattr(cls, "config"):
            package.tree[name] = cls.config.clone()
    if not any(is_foreign(cls) for cls in added.values()):
        for name, cls in added.items():
            DISTILLERS.register(name)(cls)
        return
    values = flatten(package.tree)
    if impossible := add_keys(values):
        print(f"{_label(path)}: {', '.join(impossible)} cannot be set here: this project has a value where the fork "
              "has a section, or the reverse", flush=True)  # fmt: skip
    for name, cls in added.items():
        method = adapt(cls, ADDED, add_unset(keys_read(cls))) if is_foreign(cls) else cls
        free = _free_name(name, path)
        if free != name:
            print(f"{_label(path)}: DISTILLER.TYPE {name} is this project's own method; the one of this file is "
                  f"DISTILLER.TYPE {free}", flush=True)  # fmt: skip
        DISTILLERS.register(free)(method)
        if issubclass(method, Foreign):
            read = method.reads | {"SOLVER"}
            expect(free, {f: v for f, v in values.items() if (top := f.partition(".")[0]) in read and top not in OWN})


def _label(path: Path | None) -> str:
    """The checkout that a file is part of, by its folder's name, else the file's name."""
    fork = fork_of(path) if path else None
    return fork.parent.name if fork else path.stem if path else "plugin"


def _free_name(name: str, path: Path | None) -> str:
    return name if name not in DISTILLERS else f"{name}@{_label(path)}"
