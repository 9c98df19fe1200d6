"""User code that a config names under PLUGINS or an installed package provides; imported before validation.

A config is data and runs nothing itself; this is the only place where it can name code, and only by path or module.
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
from ..config.importable import make_importable
from ..distillers import DISTILLERS
from ..distillers.choice import choice
from ..errors import USER_FILES, ConfigError, UserError, is_users, kind_and_message
from ..models.external.names import file_of_network
from ..runs.imported_files import with_imported
from ..runs.users_code import hashes_of, networks_of, registered
from ..user_modules import PLACES
from .collect import collect
from .mdistiller_package import NAME, file_of_method, imports_mdistiller, module_name

GROUP = "mdistiller_dfpt.plugins"
_loaded: dict[str, ModuleType] = {}
_files: dict[str, set[str]] = {}  # of each plugin: its own, and those that it imported from its own folder
_published: list[str] = []
OURS = str(Path(__file__).parents[1])


def load_cfg(path: str | os.PathLike[str] | None = None, overrides: config.Overrides = ()) -> CN:
    """The frozen config of the file `path` (None: the defaults) with overrides: [KEY, VALUE, ...] or {KEY: value}.

    Code named under PLUGINS, or provided by an installed package, is imported before validation. ConfigError lists all
    errors, one per line: location, key, value, allowed values.
    """
    load_published()
    try:
        cfg = config.load_cfg(path, overrides, plugins=load_plugins)
        if _advice(path):
            choice(cfg)  # ConfigError if the method is unknown
    except ConfigError as e:
        if "PLUGINS names" in str(e):  # its file is named, and faulty
            raise
        raise ConfigError("\n".join((str(e), *_advice(path)))) from None
    return cfg


def _advice(path: str | os.PathLike[str] | None) -> list[str]:
    """What to set for a config in a checkout of a fork whose method is not imported yet."""
    file = None if path is None or not Path(path).is_file() else file_of_method(Path(path))
    if file is None or str(file) in _loaded:
        return []
    return [f"{path}: in a checkout of mdistiller; its method and the keys of its fork come with PLUGINS [{file}]"]


def load_plugins(names: Iterable[str], folders: Sequence[Path] = (), modules: Iterable[str] = ()) -> None:
    """Import each plugin once: a module name, or a path ending in .py (from the first of `folders`, else the cwd).

    What is named as a module, also of a network in `modules`, is looked for in all of them, then in the cwd.

    ConfigError if one cannot be found or raises, and then nothing of it remains registered; methods written for
    mdistiller are registered on import.
    """
    names = list(names)
    make_importable([*(n for n in names if not n.endswith(".py")), *modules], folders)
    for name in names:
        places = [*(folder / name for folder in folders[:1]), Path(name)]
        place = next((place for place in places if place.exists()), places[0])
        key, path = _key(name, place), place if name.endswith(".py") else None
        if key not in _loaded:
            before = set(sys.modules)
            try:
                _loaded[key] = module = _import(name, path)
            except UserError:
                _forget(name, path, set(sys.modules) - before)
                raise
            _files[key] = _note_files(module, set(sys.modules) - before)
            if file := getattr(module, "__file__", None):  # another plugin may have imported what this one imports
                _files[key] |= with_imported(file, "" if path else name)


def _key(name: str, path: Path) -> str:
    return str(path.resolve()) if name.endswith(".py") else name


def sources(cfg: CN) -> dict[str, str]:
    """{file name: SHA-256} of the user's code in a run of this config.

    It is in the files of its plugins, of its networks of the form `module:function`, and of all that it asks for by
    name and this package has not, as what an installed package or a program has registered.
    """
    chosen = choice(cfg)
    return hashes_of(registered(cfg), _files_of(cfg.PLUGINS, (chosen.student, chosen.teacher, *chosen.others)))


def sources_of_student(cfg: CN) -> dict[str, str]:
    """Those of `sources` without which the deployed network cannot be built; a user's loss, say, is none of them."""
    chosen = choice(cfg)
    deployed = [DISTILLERS[name] for name in chosen.adds_modules]
    names = (chosen.student, *((chosen.teacher, *chosen.others) if deployed else ()))
    written = [*deployed, *networks_of(cfg, *names)]
    return hashes_of(written, _files_of(cfg.PLUGINS if any(map(is_users, written)) else [], names))


def _files_of(plugins: Iterable[str], networks: Iterable[str]) -> set[str]:
    files = {file for name in plugins for file in _files.get(_key(name, Path(name)), ())}
    for name in networks:
        if ":" in name and (file := file_of_network(name)):
            files |= with_imported(file, name.partition(":")[0])
    return files


def _forget(name: str, path: Path | None, imported: Iterable[str]) -> None:
    """Remove the user's modules that a failed plugin imported, so that all are imported again once it is mended."""
    for other in imported:
        file = getattr(sys.modules[other], "__file__", None)
        if path is None:
            is_users = other.partition(".")[0] == name.partition(".")[0]
        else:
            is_users = file is not None and path.resolve().parent in Path(file).resolve().parents
        if is_users:
            del sys.modules[other]
    importlib.invalidate_caches()


def _note_files(module: ModuleType, imported: Iterable[str]) -> set[str]:
    """Take note of the user's files: the plugin's, and those of the modules it imported from its own folder."""
    places = {*getattr(module, "__path__", []), *filter(None, [getattr(module, "__file__", None)])}
    for name in imported:
        file = getattr(sys.modules.get(name), "__file__", None)
        of_mdistiller = name.partition(".")[0] == NAME
        if file and (of_mdistiller or any(Path(place).parent in Path(file).parents for place in list(places))):
            places.add(file)
    USER_FILES.update(places)
    return places


def load_published() -> None:
    """Import the plugins of installed packages by their entry points; a broken one is reported and skipped."""
    if _published:
        return
    _published.append(GROUP)
    for point in entry_points(group=GROUP):
        try:
            loaded = collect(point.load)
            _loaded[point.value] = loaded
            _note_files(sys.modules[getattr(loaded, "__module__", None) or loaded.__name__], set())
        except Exception as e:  # another package's error must not end a run that does not use it
            print(f"warning: plugin {point.name} of {point.value} is skipped: {e}", file=sys.stderr)


def _import(name: str, path: Path | None) -> ModuleType:
    try:
        if path is None:
            module = collect(lambda: importlib.import_module(name))
            if getattr(module, "__file__", None) is None:  # a folder, which Python takes for a package without code
                raise ConfigError(f"PLUGINS names {name}, which is a folder ({', '.join(module.__path__)}) without"
                                  " __init__.py: name the files in it, as ./FILE.py")  # fmt: skip
            return module
        if not path.is_file():
            raise ConfigError(
                f"PLUGINS names {name}; no such file: put it at {os.path.abspath(path)}, or correct the path, which"
                " starts at the folder of the config; on a command line, at the working directory"
            )
        as_module = module_name(path) if imports_mdistiller(path) else ""
        return collect(lambda: _from_file(path, as_module), path)
    except UserError:
        raise
    except ModuleNotFoundError as e:
        if path is not None or e.name not in (name, name.partition(".")[0]):
            raise ConfigError(f"PLUGINS names {name}; importing it raised {kind_and_message(e)}"
                              f"{_line_of(e, path)}") from None  # fmt: skip
        raise ConfigError(f"PLUGINS names {name}; there is no such module in the folder of the config, the working"
                          " directory or a folder of PYTHONPATH: correct the name, or write the path of a file as"
                          f" ./{name.replace('.', '/')}.py") from None  # fmt: skip
    except (Exception, SystemExit) as e:
        raise ConfigError(
            f"PLUGINS names {name}; importing it raised {kind_and_message(e)}{_line_of(e, path)}"
        ) from None


def _line_of(error: BaseException, path: Path | None) -> str:
    """` (file:line)`: the last line of the plugin's file in the traceback, else the last one outside this package."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if path is not None and f.filename == str(path.resolve())]
    if lines:
        return f" ({path}:{lines[-1]})"
    outside = [f for f in frames if not f.filename.startswith(("<", OURS)) and "importlib" not in f.filename]
    return f" ({outside[-1].filename}:{outside[-1].lineno})" if outside else ""


def _from_file(path: Path, as_module: str) -> ModuleType:
    """The module of a file, under a name of its own; `as_module`: the one that it has during the import."""
    own = f"plugin_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    name = as_module or own
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
    # A module of another fork may take that name: the classes are found by the plugin's own
    sys.modules[own] = module
    PLACES[own] = str(path.resolve())
    module.__name__ = own
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == name:
            value.__module__ = own
    return module
