"""Loads and validates configs. Files are data: they inherit through `_BASE_`, are merged and checked as a whole."""

import ast
import contextlib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from ..errors import ConfigError
from ..registry import suggest
from .keys import LIMITS, OPEN_NODES, POSITIVE, REMOVED, Limit, default_cfg, is_name
from .keywords import flatten
from .policy import PRETRAINED, data_family, student_lr
from .yaml_reader import parse_yaml, read_yaml

Import = Callable[[Sequence[str], Path | None], None]
"""Imports the code named in PLUGINS; paths are relative to the given file. Its methods then have their sections."""


def _refuse(names: Sequence[str], beside: Path | None) -> None:
    if names:
        raise ConfigError(f"PLUGINS names {', '.join(names)}; mdistiller_dfpt.load_cfg imports plugins")


def load_cfg(
    path: str | os.PathLike[str] | None = None, overrides: Sequence[str] = (), *, plugins: Import = _refuse
) -> CN:
    """The frozen config of the file `path` (None: the defaults) with the overrides KEY VALUE KEY VALUE ... applied.

    `plugins` imports the user code named in the config, so that its sections exist before validation. ConfigError lists
    all errors, one per line: location, key, value, allowed values.
    """
    layers = [] if path is None else list(_with_bases(Path(path), ()))
    _import_plugins(layers, overrides, plugins)
    merge = _Merge(default_cfg())
    if path is not None:
        for file, data, lines in layers:
            _resolve_paths(data, file)
            merge.tree(data, partial(_place, file, lines))
    merge.overrides(overrides)
    cfg = merge.cfg
    if path is not None and not cfg.EXPERIMENT.NAME:
        cfg.EXPERIMENT.NAME = name_from(Path(path))
    if "MODEL.FAMILY" not in merge.where:
        cfg.MODEL.FAMILY = data_family(cfg.DATASET.TYPE)
    if "SOLVER.LR" not in merge.where:
        cfg.SOLVER.LR = student_lr(cfg.DISTILLER.STUDENT)
    merge.check()
    cfg.freeze()
    return cfg


def _place(file: Path, lines: Mapping[str, int], key: str) -> str:
    return f"{file}:{lines.get(key, 1)}"


def _import_plugins(layers: Iterable[tuple[Path, dict[str, Any], Any]], overrides: Sequence[str], load: Import) -> None:
    load([], None)
    for file, data, _ in layers:
        if isinstance(names := data.get("PLUGINS"), list):
            names = [str(n) for n in names]
            load(names, file.parent)
            data["PLUGINS"] = [_beside(file, n) if n.endswith(".py") else n for n in names]
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


class _Merge:
    """Merges layers into a config and collects all errors instead of stopping at the first."""

    def __init__(self, cfg: CN):
        self.cfg = cfg
        self.faults: list[str] = []
        self.where: dict[str, str] = {}

    def tree(self, data: dict[str, Any], where: Callable[[str], str], node: CN | None = None, prefix: str = "") -> None:
        node = self.cfg if node is None else node
        for key, value in data.items():
            full = prefix + key
            if prefix.removesuffix(".") in OPEN_NODES:
                self.free(node, key, full, value, where(full))
            elif full in REMOVED:
                if value != REMOVED[full].default:  # an earlier version wrote all keys, most of them with their default
                    self.faults.append(f"{where(full)}: unknown key {full}: {REMOVED[full].what_to_do()}")
            elif key not in node:
                known = [prefix + k for k in node] + list(flatten(self.cfg))
                self.faults.append(f"{where(full)}: unknown key {full}; {suggest(full, known)}")
            elif isinstance(node[key], CN):
                if isinstance(value, dict):
                    self.tree(value, where, node[key], full + ".")
                else:
                    self.faults.append(f"{where(full)}: {full} is a section; set a key below it")
            else:
                self.value(node, key, full, value, where(full))

    def free(self, node: CN, key: str, full: str, value: Any, where: str) -> None:
        """Set a key of an open section, which needs no default."""
        limit = OPEN_NODES[full.rpartition(".")[0]]
        fits, value = _as_type(value, 1.0, None)
        if key and fits and _holds(limit, value):
            node[key] = value
            self.where[full] = where
        else:
            self.faults.append(f"{where}: {full} is {_show(value)}; it must be {limit.words}")

    def value(self, node: CN, key: str, full: str, value: Any, where: str) -> None:
        ok, converted = _as_type(value, node[key], LIMITS.get(full))
        if ok:
            node[key] = converted
            self.where[full] = where
        else:
            kind = "list" if isinstance(node[key], list) else type(node[key]).__name__
            self.faults.append(f"{where}: {full} is {_show(value)}; it must be {_article(kind)}")

    def overrides(self, words: Sequence[str]) -> None:
        words = [str(w) for w in words]
        if len(words) % 2:
            raise ConfigError(f"overrides are pairs KEY VALUE; {words[-1]!r} has no value")
        for full, text in zip(words[::2], words[1::2], strict=True):
            node, parts = self.cfg, full.split(".")
            for part in parts[:-1]:
                node = node.get(part) if isinstance(node, CN) else None
            where = "command line"
            section = ".".join(parts[:-1])
            is_open = full in OPEN_NODES or section in OPEN_NODES
            # Does the key exist?
            if full in REMOVED:
                self.faults.append(f"{where}: unknown key {full}: {REMOVED[full].what_to_do()}")
            elif not isinstance(node, CN) or (parts[-1] not in node and not is_open):
                self.faults.append(f"{where}: unknown key {full}; {suggest(full, list(flatten(self.cfg)))}")
            elif not is_open and isinstance(node[parts[-1]], CN):
                self.faults.append(f"{where}: {full} is a section; set a key below it")
            # Text is taken as it stands, all else is read as yaml
            elif not is_open and type(node[parts[-1]]) is str and not LIMITS.get(full, POSITIVE).types:
                self.value(node, parts[-1], full, text, where)
            else:
                try:
                    value, _ = parse_yaml(text)
                except ConfigError as e:
                    self.faults.append(f"{where}: {full} is {_show(text)}; {e}")
                    continue
                if full in OPEN_NODES:
                    self.replaced(node[parts[-1]], full, value, where)
                elif is_open:
                    self.free(node, parts[-1], full, value, where)
                else:
                    self.value(node, parts[-1], full, value, where)

    def replaced(self, node: CN, full: str, value: Any, where: str) -> None:
        """Replace an open section as a whole."""
        if isinstance(value, dict):
            node.clear()
            self.tree(value, lambda _: where, node, full + ".")
        else:
            self.faults.append(f"{where}: {full} is {_show(value)}; it must be a mapping such as {{teacher: 1.0}}")

    def check(self) -> None:
        flat = flatten(self.cfg)
        for full, limit in LIMITS.items():
            if not _holds(limit, flat[full]):
                where = self.where.get(full, "default")
                self.faults.append(f"{where}: {full} is {_show(flat[full])}; it must be {limit.words}")
        if self.faults:
            raise ConfigError("\n".join(self.faults))


def _holds(limit: Limit, value: Any) -> bool:
    try:
        return bool(limit.test(value))
    except TypeError:
        return False


def _as_type(value: Any, default: Any, limit: Limit | None) -> tuple[bool, Any]:
    """(valid, value) for a key with this default: an int is accepted as a float; no other conversion is made."""
    if limit is not None and type(value) in limit.types:
        return True, value
    if isinstance(default, tuple):  # of a method written for mdistiller: yaml has lists alone, and yacs reads (a, b)
        value = _as_tuple(value)
    if type(default) is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not type(default):
        return False, value
    if isinstance(value, float) and not math.isfinite(value):
        return False, value
    if isinstance(value, str) and any(ord(c) < 32 for c in value):
        return False, value
    if isinstance(value, list):
        kinds = {type(v) for v in default} or {int, float, str}
        if not all(type(v) in kinds for v in value):
            return False, value
    return True, value


def checked_value(name: str, value: Any, default: Any, limit: Limit | None) -> Any:
    """`value` for a key with this default; ConfigError naming it if its type or the limit does not allow it."""
    fits, value = _as_type(value, default, limit)
    if not fits:
        raise ConfigError(f"{name} is {_show(value)}; it must be {_article(type(default).__name__)}")
    if limit is not None and not _holds(limit, value):
        raise ConfigError(f"{name} is {_show(value)}; it must be {limit.words}")
    return value


def _as_tuple(value: Any) -> Any:
    """A list, or text as `(16, 16)`, as a tuple; anything else as it is."""
    if isinstance(value, str) and value.startswith("("):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    return tuple(value) if isinstance(value, list) else value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _article(kind: str) -> str:
    words = {
        "str": "text",
        "int": "a whole number",
        "float": "a finite number",
        "bool": "True or False",
        "list": "a list",
    }
    return words.get(kind, kind) + (" with elements of the same type as its default" if kind == "list" else "")


def _with_bases(path: Path, chain: tuple[Path, ...]) -> Iterable[tuple[Path, dict[str, Any], dict[str, int]]]:
    """The file's layers, base first."""
    if path.resolve() in chain:
        raise ConfigError(f"{path}: _BASE_ refers back to this file")
    data, lines = read_yaml(path)
    bases = data.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(b, str) for b in bases):
        raise ConfigError(f"{path}:{lines['_BASE_']}: _BASE_ must be a yaml file or a list of them")
    for base in bases:
        yield from _with_bases(path.parent / base, (*chain, path.resolve()))
    yield path, data, lines


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
