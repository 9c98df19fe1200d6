"""Paths in configs: relative to the file that sets them if they exist there, else to the working directory."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .policy import PRETRAINED

FILES = (
    ("DISTILLER", "TEACHER_CFG"), ("DISTILLER", "TEACHER_CKPT"), ("DISTILLER", "OTHER_TEACHER_CFGS"),
    ("DISTILLER", "OTHER_TEACHER_CKPTS"), ("DISTILLER", "STUDENT_CKPT"),
)  # fmt: skip
FOLDERS = (("DATASET", "ROOT"), ("LOG", "PREFIX"), ("DISTILLER", "LOGITS_CACHE"))  # they may be made by the run


def resolve_paths(values: dict[str, Any], file: Path) -> None:
    """Replace the paths that a config file sets, in place."""
    _replace(values, FILES, partial(beside, file))
    _replace(values, FOLDERS, lambda name: beside(file, name) if (file.parent / name).exists() else name)


def make_relative(values: dict[str, Any], folder: Path) -> None:
    """Replace all paths, in place, by what a file in `folder` has to say: it can then be read from anywhere."""
    home = os.path.realpath(folder)

    def from_there(name: str) -> str:
        return os.path.relpath(os.path.realpath(name), home)

    _replace(values, (*FILES, *FOLDERS), from_there)
    values["PLUGINS"] = [from_there(name) if name.endswith(".py") else name for name in values["PLUGINS"]]


def beside(file: Path, name: str) -> str:
    """A path that `file` names, from the working directory; if it does not exist anywhere, where it was expected."""
    path = file.parent / name
    return os.path.relpath(path) if path.exists() or not Path(name).exists() else name


def _replace(values: dict[str, Any], keys: tuple[tuple[str, str], ...], new: Callable[[str], str]) -> None:
    for section, key in keys:
        node = values.get(section)
        if not isinstance(node, dict):
            continue
        names = node.get(key)
        if isinstance(names, list):
            node[key] = [new(name) if _is_path(name) else name for name in names]
        elif isinstance(names, str) and _is_path(names):
            node[key] = new(names)


def _is_path(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and name.partition(":")[0] != PRETRAINED
