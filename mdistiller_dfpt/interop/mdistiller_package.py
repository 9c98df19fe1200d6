"""The package `mdistiller` that a plugin's file imports: its fork's, an installed one, or stand-ins.

A file in a checkout of a fork sees the files of that checkout, except the `__init__` of `engine` and of `distillers`,
which would import the fork's trainers and all its methods. Another file sees mdistiller if it is installed, else
stand-ins, and beside them the files of its own folder. Each place has its own package, and `sys.modules` holds the one
of the plugin that was imported last.
"""

import ast
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn
from yacs.config import CfgNode as CN

from ..config.sections import default_cfg
from ..config.yaml_reader import read_yaml
from ..distillers.base import DISTILLERS
from ..distillers.dkd import dkd_loss
from ..distillers.feature import feature_shapes
from ..distillers.fitnet import Regressor
from ..distillers.kd import kd_loss
from ..regular_files import read_bytes
from .mdistiller_base import MdistillerBase

NAME = "mdistiller"
INSTALLED = Path()  # the place of modules that are named, and not given as a file
Shape = tuple[int, int, int, int]  # of a feature map, as in mdistiller: (1, C, H, W)


class Package(NamedTuple):
    """What mdistiller's way of registering a method changes, and what is known of the fork."""

    registry: dict[str, Any]  # distiller_dict
    tree: CN  # CFG
    names: dict[str, str]  # {class: name}, as the fork's own `distiller_dict` says


_aside: dict[Path, dict[str, ModuleType]] = {}  # the packages that are not in sys.modules now
_now = [INSTALLED]


def imports_mdistiller(path: Path) -> bool:
    """Whether a file imports mdistiller's modules, or is itself meant as one of them: it has relative imports."""
    try:
        tree = ast.parse(read_bytes(path))
    except (SyntaxError, ValueError):
        return False  # importing it says so
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").partition(".")[0] == NAME):
            return True
        if isinstance(node, ast.Import) and any(a.name.partition(".")[0] == NAME for a in node.names):
            return True
    return False


def fork_of(path: Path) -> Path | None:
    """The folder `mdistiller` of the checkout that a method's file is part of; None if it is in none."""
    for folder in path.resolve().parents:
        if folder.name == NAME and (folder / "engine" / "cfg.py").is_file():
            return folder if folder / "distillers" in path.resolve().parents else None
    return None


def file_of_method(config: Path) -> Path | None:
    """The file of the method that a config in a fork's checkout names; None if there is none."""
    places = (parent / NAME for parent in config.resolve().parents)
    fork = next((place for place in places if (place / "engine" / "cfg.py").is_file()), None)
    if fork is None:
        return None
    section = read_yaml(config)[0].get("DISTILLER")
    wanted = section.get("TYPE") if isinstance(section, dict) else None
    classes = [cls for cls, name in _names_in(fork / "distillers" / "__init__.py").items() if name == wanted]
    for file in sorted((fork / "distillers").rglob("[!_]*.py")):
        text = read_bytes(file).decode(errors="replace")
        if any(re.search(rf"^class {cls}\b", text, re.MULTILINE) for cls in classes):
            return file
    return None


def module_name(path: Path) -> str:
    """The name under which a method's file is imported: `mdistiller.distillers.<stem>`, or below it as in its fork."""
    fork = fork_of(path)
    below = path.resolve().relative_to(fork).with_suffix("").parts if fork else ("distillers", path.stem)
    return ".".join((NAME, *below))


def enter(path: Path | None) -> Package:
    """Make the package that this file sees (None: a module that is named) the one in `sys.modules`."""
    fork = fork_of(path) if path else None
    _switch((fork or path.resolve().parent) if path else INSTALLED)
    if NAME not in sys.modules:
        if fork:
            _add_fork(fork, module_name(path or fork))
        elif not _is_installed():
            _add_stand_ins(path.resolve().parent if path else None)
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine.cfg import CFG

    if path and not fork:
        _see(path.resolve().parent)
    return Package(distiller_dict, CFG, _names_in(path.resolve().with_name("__init__.py")) if path and fork else {})


def leave() -> None:
    """Forget the package of a plugin that could not be imported; an installed one stays."""
    if _now[0] != INSTALLED:
        _take_out()


def _switch(place: Path) -> None:
    if place != _now[0]:
        _aside[_now[0]] = _take_out()
        sys.modules.update(_aside.pop(place, {}))
        _now[0] = place


def _take_out() -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == NAME}


def _is_installed() -> bool:
    return find_spec(NAME) is not None


def _see(folder: Path) -> None:
    """Let the files of a folder be imported as modules of `mdistiller.distillers`."""
    places = sys.modules[f"{NAME}.distillers"].__path__
    if str(folder) not in places:
        places.append(str(folder))


def _module(name: str, places: list[Path], contents: dict[str, Any]) -> None:
    module = ModuleType(name, "A stand-in for mdistiller's module, by mdistiller_dfpt.")
    module.__path__ = list(map(str, places))
    vars(module).update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _add_fork(fork: Path, name: str) -> None:
    """The fork's packages without their `__init__`, where these would import more than a method needs."""
    _module(NAME, [fork], {})
    _module(f"{NAME}.engine", [fork / "engine"], {})
    folder, package = fork, NAME
    for part in name.split(".")[1:-1]:
        folder, package = folder / part, f"{package}.{part}"
        _module(package, [folder], {"distiller_dict": {}} if part == "distillers" else {})


def _add_stand_ins(folder: Path | None) -> None:
    """Stand-ins for what methods import from mdistiller, each name as there; a file of the folder goes before."""

    def shapes(student: nn.Module, teacher: nn.Module, size: tuple[int, int]) -> tuple[list[Shape], list[Shape]]:
        mine, its = (feature_shapes(network, (3, *size)).feats for network in (student, teacher))
        return [(1, *s) for s in mine], [(1, *t) for t in its]

    def regressor(s_shape: Shape, t_shape: Shape, use_relu: bool = True) -> nn.Module:
        return Regressor((s_shape[1], s_shape[2], s_shape[3]), (t_shape[1], t_shape[2], t_shape[3]))

    contents: dict[str, dict[str, Any]] = {
        "": {},
        ".engine": {},
        ".engine.cfg": {"CFG": mdistillers_cfg()},
        ".distillers": {"distiller_dict": {}},
        ".distillers._base": {"Distiller": MdistillerBase},
        ".distillers._common": {"ConvReg": regressor, "get_feat_shapes": shapes},
        ".distillers.KD": {"kd_loss": kd_loss},
        ".distillers.DKD": {"dkd_loss": dkd_loss},
    }
    for name, names in contents.items():
        own = folder / f"{name.rpartition('.')[2]}.py" if folder and name.startswith(".distillers.") else None
        if own is None or not own.is_file():
            _module(NAME + name, [], names)


def mdistillers_cfg() -> CN:
    """This project's defaults, with mdistiller's for the keys that are inferred from the networks here."""
    tree = default_cfg()
    for name, cls in DISTILLERS.items():
        for key, value in cls.mdistiller_defaults.items():
            *sections, last = (name, *key.split("."))
            node = tree
            for section in sections:
                node = node[section]
            node[last] = list(value) if isinstance(value, list) else value
    return tree


def _names_in(file: Path) -> dict[str, str]:
    """{class: name} of the dict literal `distiller_dict` in a fork's file, which is read and not run."""
    try:
        tree = ast.parse(read_bytes(file))
    except (OSError, SyntaxError, ValueError):
        return {}
    names: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str) and isinstance(value, ast.Name):
                    names.setdefault(value.id, key.value)
    return names
