"""Loads and validates configs. Files are data: they inherit through `_BASE_`, are merged and checked as a whole."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from ..errors import ConfigError
from .compose import Layer, find_config, layers_of
from .keys import default_cfg
from .limits import is_name
from .merge import Merge
from .policy import PRETRAINED, data_family, student_lr
from .yaml_reader import parse_yaml

Overrides = Sequence[str] | Mapping[str, Any]
Import = Callable[[Sequence[str], Path | None], None]
"""Imports the code named in PLUGINS; paths are relative to the given file. Its methods then have their sections."""


def _refuse(names: Sequence[str], beside: Path | None) -> None:
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
        _resolve_paths(data, file)
        merge.tree(data, partial(_place, file, lines))
    try:
        merge.overrides(overrides)
    except (TypeError, AttributeError) as e:
        raise ConfigError(f"overrides: {e}; they must be [KEY, VALUE, ...] or a mapping of keys to values") from None
    cfg = merge.cfg
    if path is not None and not cfg.EXPERIMENT.NAME:
        cfg.EXPERIMENT.NAME = name_from(path)
    if "MODEL.FAMILY" not in merge.where:
        cfg.MODEL.FAMILY = data_family(cfg.DATASET.TYPE)
    if "SOLVER.LR" not in merge.where:
        cfg.SOLVER.LR = student_lr(cfg.DISTILLER.STUDENT)
    merge.check()
    cfg.freeze()
    return cfg


def _place(file: Path, lines: Mapping[str, int], key: str) -> str:
    return f"{file}:{lines.get(key, 1)}"


def _import_plugins(layers: Iterable[Layer], overrides: Overrides, load: Import) -> None:
    load([], None)
    for file, data, _ in layers:
        if isinstance(names := data.get("PLUGINS"), list):
            names = [str(n) for n in names]
            load(names, file.parent)
            data["PLUGINS"] = [_beside(file, n) if n.endswith(".py") else n for n in names]
    if isinstance(overrides, Mapping):
        names = overrides.get("PLUGINS", [])
        load([str(n) for n in names] if isinstance(names, list | tuple) else [], None)
        return
    words = [str(w) for w in overrides]
    for key, text in zip(words[::2], words[1::2], strict=False):
        if key == "PLUGINS":
            names, _ = parse_yaml(text)
            load([str(n) for n in names] if isinstance(names, list) else [], None)


def name_from(path: Path) -> str:
    """A run's name: the config's path below configs/ (cifar100/kd/res56_res20); for other files, the file name."""
    parts = path.resolve().with_suffix("").parts
    below = parts[len(parts) - parts[::-1].index("configs") :] if "configs" in parts else parts[-1:]
    name = "/".join(below)
    return name if is_name(name) else re.sub(r"[^\w.,=+-]+", "_", parts[-1])


def dump_cfg(cfg: CN) -> str:
    """The config as yaml text; `load_cfg` reads it back to the same values."""
    return cfg.dump(default_flow_style=False, sort_keys=False)


def load_yaml_text(text: str) -> dict[str, Any]:
    """The values of a config that `dump_cfg` wrote, not validated."""
    return parse_yaml(text)[0] or {}


def _resolve_paths(data: dict[str, Any], file: Path) -> None:
    """Paths of teacher configs and weights are relative to the file that sets them, else to the working directory."""
    section = data.get("DISTILLER")
    if not isinstance(section, dict):
        return
    for key in ("TEACHER_CFG", "TEACHER_CKPT", "OTHER_TEACHER_CFGS", "OTHER_TEACHER_CKPTS"):
        names = section.get(key)
        if isinstance(names, list):
            section[key] = [_resolved(file, name) for name in names]
        elif isinstance(names, str):
            section[key] = _resolved(file, names)


def _resolved(file: Path, name: Any) -> Any:
    is_path = isinstance(name, str) and name and name.partition(":")[0] != PRETRAINED
    return _beside(file, name) if is_path else name


def _beside(file: Path, name: str) -> str:
    beside = file.parent / name
    return os.path.relpath(beside) if beside.exists() or not Path(name).exists() else name
