"""The layers of a config: the file, those that it inherits from, and runs that are composed of a method and a pair.

`configs/cifar100/dkd/res32x4_res8x4.yaml` is that file if it exists; else it is composed of `dkd/base.yaml`,
`pairs/res32x4_res8x4.yaml` and what `dkd/base.yaml` says of this pair under `_PAIRS_`.
"""

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..registry import suggest
from .yaml_reader import read_yaml

_PACKAGE = Path(__file__).parents[1]
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
"""In an installed package, or in the checkout."""
BASE, PAIRS = "base.yaml", "pairs"


class Layer(NamedTuple):
    """The values of one file, and the line of each dotted key."""

    file: Path
    values: dict[str, Any]
    lines: dict[str, int]


def find_config(name: Path) -> Path:
    """The path of a config that is given as a path, or as its name below configs/ (`cifar100/kd/res56_res20`)."""
    if is_config(name):
        return name
    if name.suffix:
        packaged = name.with_suffix("").as_posix().removeprefix("configs/")
        if not os.path.lexists(name) and packaged in composed_runs(CONFIGS):  # as of a command for a checkout
            raise ConfigError(f"--cfg {name}: no such config file; the one of the package is --cfg {packaged}")
        return name
    named = Path(f"{name}.yaml")
    if (found := _first_of([named, "configs" / named, CONFIGS / named])) is not None:
        return found
    known = composed_runs(CONFIGS)
    near = suggest(name.as_posix(), known) if known else "give the path of a .yaml file"
    raise ConfigError(f"--cfg {name}: no such config; {near}")


def is_config(path: Path) -> bool:
    """Whether a config is a file, or composed of files."""
    return path.is_file() or _composed_of(path) is not None


def _composed_of(path: Path) -> tuple[Path, Path] | None:
    """The files of the method and of the pair that a run without a file of its own is composed of."""
    method, pair = path.parent / BASE, path.parent.parent / PAIRS / path.name
    return (method, pair) if path.name != BASE and method.is_file() and pair.is_file() else None


def layers_of(path: Path, chain: tuple[Path, ...] = ()) -> Iterator[Layer]:
    """The layers of a config, those that it inherits from first."""
    place = Path(os.path.realpath(path))
    if place in chain:
        raise ConfigError(f"{path}: _BASE_ refers back to this file")
    chain = (*chain, place)
    if not path.is_file() and (parts := _composed_of(path)) is not None:
        for part in parts:
            yield from layers_of(part, chain)
        yield from _of_pair(*parts)
        return
    values, lines = read_yaml(path)
    if _pairs_in(path, values, lines) and path.name != BASE:
        raise ConfigError(f"{path}:{lines['_PAIRS_']}: _PAIRS_ is for the {BASE} of a method")
    bases = values.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(b, str) for b in bases):
        raise ConfigError(f"{path}:{lines['_BASE_']}: _BASE_ must be a yaml file or a list of them")
    for base in bases:
        if (found := _find_base(base, path.parent)) is None:
            raise ConfigError(
                f"{path}:{lines['_BASE_']}: _BASE_ is {base}; no such config file: {_advice_on(base, path.parent)}"
            )
        yield from layers_of(found, chain)
    if BASE in bases and path.name != BASE:  # a run with a file of its own
        yield from _of_pair(path.parent / BASE, path)
    yield Layer(path, values, lines)


def _advice_on(base: str, folder: Path) -> str:
    """What to write in place of a base that is not found."""
    if Path(base).suffix:
        return f"a path starts at the folder of this file, so that it would be {folder / base}"
    return suggest(base, composed_runs(CONFIGS))


def _find_base(base: str, folder: Path) -> Path | None:
    """The path of a base that a file in `folder` names: a path, or its name there or below configs/."""
    named = base if Path(base).suffix else f"{base}.yaml"
    places = [folder / named] if named == base else [folder / named, CONFIGS / named]
    return _first_of(places)


def _first_of(places: list[Path]) -> Path | None:
    """The first that is a config; if none is, the first where something else lies, which its reader names."""
    return next((place for test in (is_config, Path.exists) for place in places if test(place)), None)


def _pairs_in(path: Path, values: dict[str, Any], lines: dict[str, int]) -> dict[str, Any]:
    """Take `_PAIRS_` out of a file's values: {pair: values}."""
    pairs = values.pop("_PAIRS_", {})
    if not isinstance(pairs, dict) or not all(isinstance(of_pair, dict) for of_pair in pairs.values()):
        raise ConfigError(f"{path}:{lines['_PAIRS_']}: _PAIRS_ must be a mapping of pairs to values of keys")
    for pair in pairs:
        if not (path.parent.parent / PAIRS / f"{pair}.yaml").is_file():
            raise ConfigError(f"{path}:{lines[f'_PAIRS_.{pair}']}: _PAIRS_ names {pair}, which is not in {PAIRS}/")
    return pairs


def _of_pair(method: Path, pair: Path) -> Iterator[Layer]:
    """What a method's file says of one pair, if anything; not what those say that it inherits from: of other data."""
    values, lines = read_yaml(method)
    own = _pairs_in(method, values, lines).get(pair.stem)
    if own:
        prefix = f"_PAIRS_.{pair.stem}."
        yield Layer(
            method, own, {key.removeprefix(prefix): line for key, line in lines.items() if key.startswith(prefix)}
        )


def composed_runs(root: Path, pattern: str = "*") -> list[str]:
    """The names below `root` of all runs, with or without a file of their own, that match a pattern with wildcards."""
    found = set()
    for file in root.rglob("*.yaml"):
        name = file.relative_to(root).with_suffix("").as_posix()
        if file.name == BASE:
            pairs = (file.parent.parent / PAIRS).glob("*.yaml") if file.parent.parent != root else ()
            found |= {f"{file.parent.relative_to(root).as_posix()}/{pair.stem}" for pair in pairs}
        elif file.parent.name not in (PAIRS, "tables"):
            found.add(name)
    return sorted(name for name in found if fnmatch.fnmatch(name, pattern) or pattern in name)
