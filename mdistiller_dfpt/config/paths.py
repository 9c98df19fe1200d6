"""Paths in configs: relative to the file that sets them; on a command line, to the working directory."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from ..distributed import rank
from ..errors import CheckpointError, ConfigError, DataError
from ..trusted_files import named_code
from .importable import folders_of
from .policy import NOT_SET, PRETRAINED

PATHS = (
    ("DATASET", "ROOT"), ("DATASET", "EXTRA", "ROOT"), ("LOG", "PREFIX"), ("DISTILLER", "TEACHER_CFG"),
    ("DISTILLER", "TEACHER_CKPT"), ("DISTILLER", "OTHER_TEACHER_CFGS"), ("DISTILLER", "OTHER_TEACHER_CKPTS"),
    ("DISTILLER", "STUDENT_CKPT"), ("DISTILLER", "LOGITS_CACHE"), ("EXPERIMENT", "IMPORT_FROM"),
)  # fmt: skip

DEFAULTS = ("./data", "./output")


_PLACES = "_places"  # an attribute of a config, beside its keys: the place that set each path


def note_places(cfg: CN, where: Mapping[str, str]) -> None:
    """Keep with a config, and with its copies, which file and line set its paths."""
    names = (".".join(keys) for keys in PATHS)
    vars(cfg)[_PLACES] = {name: where[name] for name in names if ":" in where.get(name, "")}


@contextlib.contextmanager
def places_named(cfg: CN) -> Iterator[None]:
    """Context in which an error about one of a config's paths begins with the file and line that set it."""
    try:
        yield
    except (ConfigError, DataError, CheckpointError) as e:
        said = str(e)
        for name, place in vars(cfg).get(_PLACES, {}).items():
            if not said.startswith(place) and (f"{name} is " in said or f"{name} '" in said):
                e.args = (f"{place}: {said}",)
                break
        raise


def resolve_paths(values: dict[str, Any], file: Path) -> None:
    """Replace the paths that a config file sets, in place, by what they are from the working directory."""
    for keys in PATHS:
        _replace(values, keys, partial(beside, file, ".".join(keys)))


def make_relative(values: dict[str, Any], folder: Path) -> None:
    """Replace all paths, in place, by what a file in `folder` has to say: it can then be read from anywhere.

    That includes the folders of the user's modules which it names.
    """
    home = os.path.realpath(folder)
    if folders := folders_of(modules_in(values)):
        values.setdefault("EXPERIMENT", {})["IMPORT_FROM"] = folders

    def from_there(name: str) -> str:
        return os.path.relpath(os.path.realpath(name), home)

    for keys in PATHS:
        _replace(values, keys, from_there)
    values["PLUGINS"] = [from_there(name) if name.endswith(".py") else name for name in values["PLUGINS"]]


def modules_in(values: Mapping[str, Any]) -> list[str]:
    """The modules that values name, nested or dotted: under PLUGINS, and of networks of the form `module:function`."""
    return [name.partition(":")[0] for _, name in named_code(values) if not name.endswith(".py")]


def beside(file: Path, key: str, name: str) -> str:
    """A path that `file` sets for `key`, from the working directory.

    If it is not beside the file, but in the working directory, where earlier versions looked, that one is taken, which
    is said; if it is nowhere, or is where runs are written, it belongs beside the file. A file that repeats a default,
    as those do that list all keys, means the default, which is in the working directory.
    """
    path = file.parent / name
    if name in DEFAULTS and not path.exists():
        return name
    if path.exists() or os.path.isabs(name) or key == "LOG.PREFIX" or not Path(name).exists():
        return os.path.relpath(path) if not os.path.isabs(name) else name
    if rank() == 0:
        there = os.path.relpath(os.path.realpath(name), os.path.realpath(file.parent))
        print(f"note: {file}: {key} is {name}, which is not beside this file: the one in the working directory is"
              f" taken; write {there}", flush=True)  # fmt: skip
    return name


def _replace(values: dict[str, Any], keys: tuple[str, ...], new: Callable[[str], str]) -> None:
    node: Any = values
    for section in keys[:-1]:
        node = node.get(section) if isinstance(node, dict) else None
    names = node.get(keys[-1]) if isinstance(node, dict) else None
    if isinstance(names, list):
        node[keys[-1]] = [new(name) if _is_path(name) else name for name in names]
    elif isinstance(names, str) and _is_path(names):
        node[keys[-1]] = new(names)


def _is_path(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and name not in NOT_SET and name.partition(":")[0] != PRETRAINED
