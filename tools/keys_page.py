"""Writes docs/keys.md, all keys of the config: python tools/keys_page.py.

Default, limit and meaning are those of config/keys.py; of a method, kind of teacher or augmentation, those of its
class, whose meanings are the comments beside the keys of its config section.
"""

import ast
import inspect
import io
import os
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdistiller_dfpt.config.keys import KEYS
from mdistiller_dfpt.data import AUGMENTATIONS
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.teachers import TEACHERS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/keys.md"
HEAD = """\
# All keys

Written by `python tools/keys_page.py`. A key is set in a yaml file or on the command line, as `KD.TEMPERATURE 2`; lists
and sections are written as in yaml, in quotes: `"[1, 3]"`. The value `null` or `None` means that a key is not set.
Limits are checked before data are loaded; a key that is set and has no effect in a run is reported.

The keys of a method or of a kind of teacher are the arguments of its class, in lower case and without `LOSS`; where no
meaning is given, see the formula in the named file. `CE_WEIGHT` is the weight of the cross-entropy with the labels.
"""
COLUMNS = ("key", "default", "limit", "meaning")


def comments(cls: type) -> dict[str, str]:
    """{key below the section: its comment} of a class whose `config` is a dict in its source, or of its base classes.

    The comment is behind the key, or on the lines above it; one beside several keys belongs to none of them. Those of a
    section that is part of this one, as in `{**Other.config, ...}`, are the other class's.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if "config" in vars(base) and base.__module__.startswith("mdistiller_dfpt"):
            source = inspect.getsource(base)
            for part in parts_of(source):
                found.update(comments(vars(sys.modules[base.__module__])[part]))
            found.update(comments_in(source))
    return found


def comments_in(source: str) -> dict[str, str]:
    """{key: its comment} of the dict that is assigned to `config` in a source."""
    behind: dict[int, str] = {}
    above: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            own_line = token.line.lstrip().startswith("#")
            (above if own_line else behind)[token.start[0]] = token.string.lstrip("# ")
    keys = {key: lines for value in _configs(source) for key, lines in _keys_in(value, "")}
    starts = [first for first, _ in keys.values()]
    found = {}
    for key, (first, last) in keys.items():
        block: list[str] = []
        while first - 1 - len(block) in above:
            block.insert(0, above[first - 1 - len(block)])
        if starts.count(first) == 1 and (block or last in behind):
            found[key] = " ".join(block) or behind[last]
    return found


def parts_of(source: str) -> list[str]:
    """The classes whose sections are part of the one in a source: `Other` for `{**Other.config, ...}`."""
    dicts = [n for value in _configs(source) for n in ast.walk(value) if isinstance(n, ast.Dict)]
    spread = [value for d in dicts for key, value in zip(d.keys, d.values, strict=True) if key is None]
    return [v.value.id for v in spread if isinstance(v, ast.Attribute) and isinstance(v.value, ast.Name)]


def _configs(source: str) -> list[ast.expr]:
    """What is assigned to `config`."""
    assigned = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign)]
    return [node.value for node in assigned if any(getattr(target, "id", "") == "config" for target in node.targets)]


def _keys_in(value: ast.expr, prefix: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """(key, first and last line) of a section, and of the sections in it."""
    if isinstance(value, ast.Call) and value.args and isinstance(value.args[0], ast.Dict):
        for key, its in zip(value.args[0].keys, value.args[0].values, strict=True):
            if isinstance(key, ast.Constant):
                name = f"{prefix}{key.value}"
                nested = list(_keys_in(its, f"{name}."))
                yield from nested or [(name, (key.lineno, its.end_lineno or key.lineno))]


def sections() -> dict[str, tuple[str, type]]:
    """{section: the key and value that select its class, the class} of methods, kinds of teacher and augmentations."""
    found: dict[str, tuple[str, type]] = {}
    for registry in (DISTILLERS, TEACHERS, AUGMENTATIONS):
        for name, cls in sorted(registry.items()):
            if cls.config:
                found[registry.node_of(name)] = (f"{registry.key} {name}", cls)
    return found


def table(prefix: str, meanings: dict[str, str] | None = None) -> str:
    """The table of the keys that begin with `prefix`, in Markdown."""
    rows: list[tuple[str, ...]] = [COLUMNS, ("---",) * len(COLUMNS)]
    for full, key in KEYS.items():
        if full == prefix or full.startswith(f"{prefix}."):
            meaning = key.meaning if meanings is None else meanings.get(full.removeprefix(f"{prefix}."), "")
            rows.append((f"`{full}`", f"`{shown(key.default)}`", key.limit.words if key.limit else "", meaning))
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def shown(default: Any) -> str:
    """A default as it is written in a config; an empty text in quotes."""
    return '""' if default == "" else str(default)


def page() -> str:
    """The page."""
    of_classes = sections()
    parts = [HEAD]
    for section in dict.fromkeys(full.partition(".")[0] for full in KEYS):
        if section not in of_classes:
            parts.append(f"## {section}\n\n{table(section)}")
    parts.append("## Sections of methods and of kinds of teacher\n")
    for section, (selects, cls) in of_classes.items():
        module = sys.modules[cls.__module__]
        file = Path(module.__file__ or "")
        link = f"[{file.name}]({Path(os.path.relpath(file, PAGE.parent)).as_posix()})"
        what = " ".join((module.__doc__ or "").split("\n\n")[0].split())
        parts.append(f"### {section}\n\n`{selects}`, in {link}. {what}\n\n{table(section, comments(cls))}")
    return "\n".join(parts)


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
