"""User code that a config names under PLUGINS, or that an installed package publishes: imported before it is validated.

A config is data and runs nothing by itself; this is the one place where it may name code, and only by path or module.
"""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from yacs.config import CfgNode as CN

from .. import config
from ..errors import USER_FILES, ConfigError
from .from_mdistiller import collect

GROUP = "mdistiller_dfpt.plugins"
_loaded: dict[str, ModuleType] = {}
_published: list[str] = []


def load_cfg(path: str | os.PathLike[str] | None = None, overrides: Sequence[str] = ()) -> CN:
    """The frozen config of the file `path` (None: the defaults) with `overrides` KEY VALUE KEY VALUE ... on top.

    Code that it names under PLUGINS, or that an installed package publishes, is imported before it is validated.
    ConfigError with every fault found, a line each: where it stands, key, value, what is allowed.
    """
    load_published()
    return config.load_cfg(path, overrides, plugins=load_plugins)


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
            _loaded[key] = module = _import(name, path)
            USER_FILES.update([*getattr(module, "__path__", []), *filter(None, [getattr(module, "__file__", None)])])


def load_published() -> None:
    """Import what installed packages publish under the entry point group; a broken one is named and left out."""
    if _published:
        return
    _published.append(GROUP)
    for point in entry_points(group=GROUP):
        try:
            _loaded[point.value] = collect(point.load)
        except Exception as e:  # somebody else's package must not end a run that does not use it
            print(f"warning: plugin {point.name} of {point.value} is left out: {e}", file=sys.stderr)


def _import(name: str, path: Path | None) -> ModuleType:
    try:
        if path is None:
            return collect(lambda: importlib.import_module(name))
        if not path.is_file():
            raise ConfigError(f"PLUGINS names {name}; there is no such file")
        return collect(lambda: _from_file(path))
    except ConfigError:
        raise
    except Exception as e:
        raise ConfigError(
            f"PLUGINS names {name}; importing it raised {type(e).__name__}: {e}{_line_of(e, path)}"
        ) from None


def _line_of(error: BaseException, path: Path | None) -> str:
    """` (file:line)`: where in the plugin's file, the last one of its lines on the way to the error."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if path and f.filename == str(path.resolve())]
    return f" ({path}:{lines[-1]})" if lines else ""


def _from_file(path: Path) -> ModuleType:
    name = f"plugin_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
