"""Makes a user's modules importable that lie beside the config which names them, and says where they lie."""

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import ConfigError


def make_importable(modules: Iterable[str], folders: Sequence[Path]) -> None:
    """Add the folder of each of these modules to the end of Python's search path.

    It is the first of `folders` that has it, as that of the config, or, for modules that Python does not find
    otherwise, the working directory. ConfigError if Python finds another module first than the one there, which would
    be taken in silence.
    """
    for module in modules:
        name = module.partition(".")[0]
        home = next((folder for folder in folders if _place(name, folder) is not None), None)
        if home is None:
            if _file_of(name) is None and _place(name, Path.cwd()) is not None:
                _add(Path.cwd())
            continue
        _add(home)
        place, found = _place(name, home), _file_of(name)
        assert place is not None
        if found is None or os.path.realpath(found) != os.path.realpath(place):
            raise ConfigError(f"{place}: Python has another module {name}{f' ({found})' if found else ''}, which would"
                              " be imported in its place: rename the file")  # fmt: skip


def folders_of(modules: Iterable[str]) -> list[str]:
    """The folders that these modules are imported from, but for those of installed packages."""
    files = filter(None, (_file_of(module.partition(".")[0]) for module in modules))
    places = {Path(file).resolve() for file in files}
    folders = {str(place.parents[place.name == "__init__.py"]) for place in places}
    return sorted(folders - set(map(os.path.realpath, sysconfig.get_paths().values())))


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
