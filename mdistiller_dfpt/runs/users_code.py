"""The files of the user's code that a run uses: of what it asks for by name, whether a plugin or a program added it."""

import functools
import hashlib
import inspect
import linecache
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from ..config.keywords import flatten
from ..data import AUGMENTATIONS, DATASETS
from ..distillers.choice import choice
from ..losses import LOGIT_LOSSES
from ..models.build import MODELS
from ..teachers import TEACHERS
from ..teachers.prompt import PROMPT_BLOCKS
from ..training.optim import OPTIMIZERS, SCHEDULES
from .hashing import file_hash
from .imported_files import OURS, with_imported

LIBRARIES = ("torch", "torchvision", "timm")
"""Their versions are recorded."""
INSTALLED = Path(sysconfig.get_paths()["purelib"])


def registered(cfg: CN) -> list[Any]:
    """The classes and functions that a config asks for by name."""
    chosen = choice(cfg)
    networks = networks_of(cfg, chosen.student, chosen.teacher, *chosen.others)
    named: list[Any] = [DATASETS.get(cfg.DATASET.TYPE), DATASETS.get(cfg.DATASET.EXTRA.TYPE or ""),
             OPTIMIZERS.get(cfg.SOLVER.TYPE), SCHEDULES.get(cfg.SOLVER.SCHEDULE)]  # fmt: skip
    named += [AUGMENTATIONS.get(name) for name in cfg.DATASET.AUGMENT]
    named += [TEACHERS[chosen.kind]] if chosen.is_taught else []
    values = flatten({section: cfg[section] for section in chosen.sections if section in cfg}).values()
    named += [table[value] for table in (LOGIT_LOSSES, PROMPT_BLOCKS) for value in values
              if isinstance(value, str) and value in table]  # fmt: skip
    return [*chosen.methods.values(), *networks, *(one for one in named if one is not None)]


def networks_of(cfg: CN, *names: str) -> list[Any]:
    """The builders of the networks of these names that are registered."""
    return [MODELS[key] for name in names if (key := f"{cfg.MODEL.FAMILY}/{name}") in MODELS]


def hashes_of(
    named: Iterable[Any], files: Iterable[str | Path] = (), beside: Iterable[Any] = ()
) -> dict[str, str]:  # fmt: skip
    """{name: SHA-256} of the files in which the user wrote these, of those which they import, and of `files`.

    What was typed, as in a notebook, is known by its text. Of `beside`, and of what these are derived from, an
    installed package is no code of the user's.
    """
    found, typed = set(map(str, files)), {}
    for part, is_named in _parts(named, beside):
        for file, module in _files(part):
            if not is_named and INSTALLED in Path(file).parents:
                continue
            if Path(file).is_file():
                found |= with_imported(file, module)
            elif text := "".join(linecache.getlines(file)):
                typed[part.__qualname__] = hashlib.sha256(text.encode()).hexdigest()
    paths = sorted({path for file in found if (path := Path(file).resolve()).is_file()})
    often = Counter(path.name for path in paths)
    names = {path: path.name if often[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in paths}
    return {name: file_hash(path) for path, name in names.items()} | typed


def _parts(named: Iterable[Any], beside: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """The classes, with those that they are derived from, and the functions; with whether each is itself in `named`."""
    for one, is_named in [*((one, True) for one in named), *((one, False) for one in beside)]:
        while isinstance(one, functools.partial):
            one = one.func
        one = getattr(one, "foreign", one)  # a method of mdistiller, in a class of ours
        yield one, is_named
        yield from ((base, False) for base in (one.__mro__[1:-1] if isinstance(one, type) else ()))


def _files(part: Any) -> set[tuple[str, str]]:
    """(file, module) of the code of a class or function, unless it is of this package or one of LIBRARIES."""
    functions = [part, *vars(part).values()] if isinstance(part, type) else [part]
    codes = [code for one in functions if (code := getattr(inspect.unwrap(one), "__code__", None))]
    module = str(getattr(part, "__module__", "") or "")
    if module.partition(".")[0] in (*LIBRARIES, OURS.name):
        return set()
    return {(code.co_filename, "" if module == "__main__" else module) for code in codes
            if not Path(code.co_filename).is_relative_to(OURS)}  # fmt: skip
