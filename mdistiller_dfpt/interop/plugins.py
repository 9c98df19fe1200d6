"""User code that a config names under PLUGINS, or that an installed package publishes: imported before it is validated.

A config is data and runs nothing by itself; this is the one place where it may name code, and only by path or module.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from .errors import ConfigError

GROUP = "mdistiller_dfpt.plugins"
_loaded: dict[str, ModuleType] = {}
_published: list[str] = []


def load_plugins(names: Iterable[str], beside: Path | None = None) -> None:
    """Import each once: a module's name, or a path ending in .py (`beside` the config that names it, else from here).

    ConfigError where one cannot be found or raises; methods written for mdistiller register themselves on the way.
    """
    for name in names:
        if name.endswith(".py"):
            path = beside / name if beside is not None and (beside / name).exists() else Path(name)
            key = str(path.resolve())
        else:
            path, key = None, name
        if key not in _loaded:
            _loaded[key] = _import(name, path)


def load_published() -> None:
    """Import what installed packages publish under the entry point group; a broken one is named and left out."""
    if _published:
        return
    _published.append(GROUP)
    for point in entry_points(group=GROUP):
        try:
            _loaded[point.value] = _collected(point.load)
        except Exception as e:  # somebody else's package must not end a run that does not use it
            print(f"warning: plugin {point.name} of {point.value} is left out: {e}", file=sys.stderr)


def _import(name: str, path: Path | None) -> ModuleType:
    try:
        if path is None:
            return _collected(lambda: importlib.import_module(name))
        if not path.is_file():
            raise ConfigError(f"PLUGINS names {name}; there is no such file")
        return _collected(lambda: _from_file(path))
    except ConfigError:
        raise
    except Exception as e:
        raise ConfigError(f"PLUGINS names {name}; importing it raised {type(e).__name__}: {e}") from None


def _from_file(path: Path) -> ModuleType:
    name = f"plugin_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _collected(load: Callable[[], ModuleType]) -> ModuleType:
    # By name, as this file stands below the methods: importing them registers them, and what a plugin adds to
    # mdistiller's own registries is carried over
    return importlib.import_module("mdistiller_dfpt.distillers.foreign").collect(load)
