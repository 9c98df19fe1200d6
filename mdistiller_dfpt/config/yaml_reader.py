"""Reads yaml as plain data: no tags that run code, no duplicate keys, no aliases; records the line of each key."""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from ..errors import ConfigError
from ..invocation import command_line
from ..regular_files import read_bytes

MAX_BYTES = 1_000_000
MAX_DEPTH = 16
MAX_ENTRIES = 10_000
MAX_DIGITS = 100
_TEXT = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")}


class _Fault(ConfigError):
    """What is wrong with a text, and the line."""

    def __init__(self, what: str, mark: yaml.Mark | None, line: int = 1):
        super().__init__(what)
        self.line = line if mark is None else mark.line + 1


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads `1e-4` as a number, as users expect of a learning rate."""

    entries = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As of the base class; _Fault at once where there are too many, as a megabyte of them takes a minute."""
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            raise _Fault("too many entries", self.peek_event().start_mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def _convert(loader: yaml.SafeLoader, node: yaml.Node, path: str, lines: dict[str, int], seen: set[int]) -> Any:
    if id(node) in seen:
        raise _Fault("aliases (*name) are not supported", node.start_mark)
    seen.add(id(node))
    if path.count(".") > MAX_DEPTH:
        raise _Fault("too deeply nested entries", node.start_mark)
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        result = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                raise _Fault("a key must be a word", key_node.start_mark)
            key = key_node.value
            if key in result:
                raise _Fault(f"{path + key} is set twice", key_node.start_mark)
            lines[path + key] = key_node.start_mark.line + 1
            result[key] = _convert(loader, value_node, f"{path}{key}.", lines, seen)
        return result
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [_convert(loader, child, path, lines, seen) for child in node.value]
    if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN:
        _check_tag(loader, node)
        if node.tag in _NUMBERS and ":" in node.value:  # 1:30, which YAML 1.1 reads as a number in base 60
            return node.value
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError) as e:
            raise _Fault(_one_line(e), node.start_mark) from None
    raise _Fault(f"{node.tag!r} is not plain data", node.start_mark)


def _check_tag(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> None:
    """_Fault if a text is not of the kind that its tag says, as `!!int x`, or a number too long to be one."""
    looks = loader.resolve(yaml.ScalarNode, node.value, (True, False))
    fits = looks == node.tag or node.tag == _TEXT or (looks, node.tag) == _NUMBERS
    if not fits:
        raise _Fault(f"{node.value[:80]!r} is not a value of {node.tag.rpartition(':')[2]}", node.start_mark)
    if node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
        raise _Fault(f"a number of {len(node.value)} characters", node.start_mark)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def parse_yaml(text: str) -> tuple[Any, dict[str, int]]:
    """The data of one yaml document, and the line of each dotted key; ConfigError if it is anything else."""
    if len(text) > MAX_BYTES:  # as in a record, which is read in no time and would be parsed for hours
        raise _Fault(f"has {len(text):,} characters; at most {MAX_BYTES:,} are read", None)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[str, int] = {}
            return (None if node is None else _convert(loader, node, "", lines, set())), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as e:
        what = ", ".join(filter(None, (e.context, e.problem)))
        raise _Fault(f"not valid yaml: {what}", e.problem_mark or e.context_mark) from None
    except ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise _Fault(f"not valid yaml: the character #x{e.character:04x} is not allowed", None, line) from None
    except (yaml.YAMLError, ValueError, RecursionError, MemoryError) as e:
        raise _Fault(f"not valid yaml: {_one_line(e)[:300]}", None) from None


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in the file `path`; ConfigError naming the file if it cannot be read."""
    if Path(os.path.realpath(path)).suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{path}: a config must be a .yaml file")
    try:
        raw = read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; `{command_line('train')} --list` prints the configs") from None
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from None
    try:
        data, lines = parse_yaml(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except _Fault as e:
        raise ConfigError(f"{path}:{e.line}: {e}") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config must be a mapping of keys to values")
    return data, lines
