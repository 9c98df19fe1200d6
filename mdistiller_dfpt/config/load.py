"""Loads and validates configs. Files are data: they inherit through `_BASE_`, are merged and checked as a whole."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from ..errors import ConfigError
from ..json_form import CONFIG, fault_of
from ..trusted_files import NETWORKS, check_trust
from .added_keys import apply_expected
from .compose import Layer, find_config, layers_of
from .limits import without_other_characters
from .merge import Merge
from .paths import beside, make_relative, note_places, resolve_paths
from .policy import OWN_IMAGES, data_family, student_lr
from .sections import default_cfg
from .yaml_reader import parse_yaml

Overrides = Sequence[str] | Mapping[str, Any]
Import = Callable[[Sequence[str], Sequence[Path], Sequence[str]], None]
"""Imports the code named in PLUGINS, so that its methods have their sections; it lies in one of these folders, else in
the working directory. Last, the modules of networks that are named with it, which are imported when they are built."""


def _refuse(names: Sequence[str], folders: Sequence[Path], modules: Sequence[str]) -> None:
    if names:
        raise ConfigError(f"PLUGINS names {', '.join(names)}; mdistiller_dfpt.load_cfg imports plugins")


def load_cfg(path: str | os.PathLike[str] | None = None, overrides: Overrides = (), *, plugins: Import = _refuse) -> CN:
    """The frozen config of the file `path` (None: the defaults) with overrides: [KEY, VALUE, ...] or {KEY: value}.

    A key of a mapping may be dotted (`{"SOLVER.EPOCHS": 3}`), a value may be a mapping (`{"SOLVER": {"EPOCHS": 3}}`).
    `plugins` imports the user code named in the config, so that its sections exist before validation. ConfigError lists
    all errors, one per line: location, key, value, allowed values.
    """
    path = None if path is None else find_config(Path(path))
    layers = [] if path is None else list(layers_of(path))
    _import_plugins(layers, overrides, plugins)
    merge = Merge(default_cfg())
    for file, data, lines in layers:
        resolve_paths(data, file)
        merge.tree(data, partial(_place, file, lines))
    try:
        merge.overrides(overrides)
    except (TypeError, AttributeError) as e:
        raise ConfigError(f"overrides: {e}; they must be [KEY, VALUE, ...] or a mapping of keys to values") from None
    cfg = merge.cfg
    apply_expected(cfg, merge.where)
    if path is not None and not cfg.EXPERIMENT.NAME:
        cfg.EXPERIMENT.NAME = name_from(path)
    if "MODEL.FAMILY" not in merge.where:
        cfg.MODEL.FAMILY = data_family(_data_of_networks(cfg.DATASET.TYPE, layers))
    if "SOLVER.LR" not in merge.where:
        cfg.SOLVER.LR = student_lr(cfg.DISTILLER.STUDENT)
    merge.check()
    note_places(cfg, merge.where)
    cfg.freeze()
    return cfg


def _data_of_networks(data: str, layers: Sequence[Layer]) -> str:
    """The dataset whose networks a config has: for images of one's own, that of the file which names the networks."""
    if data != OWN_IMAGES:
        return data
    types = [values["DATASET"].get("TYPE") for _, values, _ in layers if isinstance(values.get("DATASET"), dict)]
    return next((str(name) for name in reversed(types) if name not in (None, OWN_IMAGES)), data)


def _place(file: Path, lines: Mapping[str, int], key: str) -> str:
    return f"{file}:{lines.get(key, 1)}"


def _import_plugins(layers: Iterable[Layer], overrides: Overrides, load: Import) -> None:
    load([], [], [])
    given = _places_given(overrides)
    for file, data, lines in layers:
        check_trust(file, data, lines)
        modules = _modules_in(data.get("DISTILLER"))
        experiment = data.get("EXPERIMENT")
        noted = experiment.get("IMPORT_FROM") if isinstance(experiment, dict) else None
        places = [file.parent / str(name) for name in noted] if isinstance(noted, list) and given is None else given
        folders = [file.parent, *(places or [])]
        if isinstance(names := data.get("PLUGINS"), list):
            names = [str(n) for n in names]
            data["PLUGINS"] = [beside(file, "PLUGINS", n) if n.endswith(".py") else n for n in names]
            try:
                load(names, folders, modules)
            except ConfigError as e:
                raise ConfigError(f"{_place(file, lines, 'PLUGINS')}: {e}") from e.__cause__
        elif modules:
            load([], folders, modules)
    if isinstance(overrides, Mapping):
        names = overrides.get("PLUGINS", [])
        networks = {key.removeprefix("DISTILLER."): value for key, value in overrides.items()}
        load([str(n) for n in names] if isinstance(names, list | tuple) else [], given or [], _modules_in(networks))
        return
    words = [str(w) for w in overrides]
    for key, text in zip(words[::2], words[1::2], strict=False):
        if key == "PLUGINS":
            names, _ = parse_yaml(text)
            load([str(n) for n in names] if isinstance(names, list) else [], given or [], [])
        elif modules := _modules_in({key.removeprefix("DISTILLER."): text}):
            load([], given or [], modules)


def _places_given(overrides: Overrides) -> list[Path] | None:
    """EXPERIMENT.IMPORT_FROM of overrides, which then holds for all files; None if it is not among them."""
    if isinstance(overrides, Mapping):
        found = overrides.get("EXPERIMENT.IMPORT_FROM")
    else:
        words = [str(word) for word in overrides]
        texts = dict(zip(words[::2], words[1::2], strict=False))
        found = parse_yaml(texts.get("EXPERIMENT.IMPORT_FROM", ""))[0]
    return [Path(str(name)) for name in found] if isinstance(found, list | tuple) else None


def _modules_in(distiller: Any) -> list[str]:
    """The modules of networks of the form `module:function` that a section names."""
    given = [distiller.get(key.partition(".")[2]) for key in NETWORKS] if isinstance(distiller, Mapping) else []
    names = [name for value in given for name in (value if isinstance(value, list) else [value])]
    return [name.partition(":")[0] for name in names if isinstance(name, str) and ":" in name]


def name_from(path: Path) -> str:
    """A run's name: the config's path below configs/ (cifar100/kd/res56_res20), else folder and file name."""
    parts = Path(os.path.realpath(path)).with_suffix("").parts[1:]
    below = parts[len(parts) - parts[::-1].index("configs") :] if "configs" in parts else parts[-2:]
    return without_other_characters("/".join(below))


def dump_cfg(cfg: CN, folder: Path | None = None) -> str:
    """The config as yaml text; `load_cfg` reads it back to the same values.

    With `folder`, that of the file: a file there names the same places from any working directory, also if both move.
    """
    if folder is not None:
        cfg = cfg.clone()
        cfg.defrost()
        make_relative(cfg, folder)
    return cfg.dump(default_flow_style=False, sort_keys=False)


def load_yaml_text(text: str) -> dict[str, Any]:
    """The values of a config that `dump_cfg` wrote, not validated; ConfigError if they do not have its form."""
    values = parse_yaml(text)[0] or {}
    if fault := fault_of(values, CONFIG):
        raise ConfigError(f"not the config of a run: {fault}")
    return values
