"""Makes a user's modules importable that lie beside the config which names them."""

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigError


def make_importable(modules: Iterable[str], beside: Path | None) -> None:
    """Add a folder to the end of Python's search path if one of these modules is in it.

    It is `beside`, that of the config, or, for modules that Python does not find otherwise, the working directory.
    ConfigError if Python finds another module first than the one beside the config, which would be taken in silence.
    """
    for module in modules:
        name = module.partition(".")[0]
        if beside is None or (place := _place(name, beside)) is None:
            if _file_of(name) is None and _place(name, Path.cwd()) is not None:
                _add(Path.cwd())
            continue
        _add(beside)
        found = _file_of(name)
        if found is None or os.path.realpath(found) != os.path.realpath(place):
            raise ConfigError(f"{place}: Python has another module {name}{f' ({found})' if found else ''}, which would"
                              " be imported in its place: rename the file")  # fmt: skip


def _place(name: str, folder: Path) -> Path | None:
    return next((p for p in (folder / f"{name}.py", folder / name / "__init__.py") if p.is_file()), None)


def _add(folder: Path) -> None:
    if (home := os.path.realpath(folder)) not in map(os.path.realpath, sys.path):
        sys.path.append(home)
        importlib.invalidate_caches()


def _file_of(name: str) -> str | None:
    """The file of a module that is imported, or would be."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin
