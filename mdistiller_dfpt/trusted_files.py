"""Which files may name code: those in folders that the user trusts.

A config can come from a stranger, with a run, a table or a file of weights, and code that it names runs as soon as the
config is loaded. What is typed on a command line, or given by a program, is trusted.
"""

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .regular_files import read_text

VARIABLE = "MDISTILLER_DFPT_TRUST"
"""Environment variable: trusted folders, separated as in PATH; for this process and those that it starts."""

NETWORKS = ("DISTILLER.STUDENT", "DISTILLER.TEACHER", "DISTILLER.ASSISTANTS", "DISTILLER.OTHER_TEACHERS")
"""The keys that can name a network as `module:function`."""


def list_of_trusted() -> Path:
    """The file with the folders that the user trusts, one a line; it need not exist."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home, "mdistiller_dfpt", "trusted")


def listed() -> list[str]:
    """The folders in that file; ConfigError if it cannot be read."""
    path = list_of_trusted()
    try:
        return [line for line in read_text(path).splitlines() if line]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e}); it lists trusted folders, one"
                          " a line") from None  # fmt: skip


def trust_all() -> None:
    """Let any file name code, in this process and those that it starts."""
    os.environ[VARIABLE] = os.sep


@contextlib.contextmanager
def trust_as_before() -> Iterator[None]:
    """What is trusted within ends with it."""
    before = os.environ.get(VARIABLE)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def is_trusted(path: str | os.PathLike[str]) -> bool:
    """Whether a file lies in a trusted folder; links are followed."""
    place = Path(os.path.realpath(path))
    given = [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    return any(place.is_relative_to(os.path.realpath(folder)) for folder in (*given, *listed()))


def check_trust(file: Path, values: Mapping[str, Any], lines: Mapping[str, int] | None = None) -> None:
    """ConfigError if a file that the user does not trust names code; `values`: what it sets, nested or dotted.

    A plugin in a trusted folder may be named by any file. `lines`: the line of each key, where it is known.
    """
    for key, name in named_code(values):
        plugin = file.parent / name
        if is_trusted(file) or (name.endswith(".py") and plugin.is_file() and is_trusted(plugin)):
            continue
        at = f"{file}:{lines[key]}" if lines and key in lines else str(file)
        folder = os.path.realpath(file.parent)
        raise ConfigError(f"{at}: {key} names {name}, code that this file would run. If you trust it, add --trust"
                          " (in Python, `load_student(..., trust=True)`), or once for all files of a folder:"
                          f" mdistiller-dfpt trust {shlex.quote(str(folder))}")  # fmt: skip


def named_code(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, name) of the code that values name."""
    sections = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    flat = {**values, **{f"{key}.{below}": value for key, at in sections.items() for below, value in at.items()}}
    for key, value in flat.items():
        # A text can be a list, as on a command line
        names = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for name in map(str, names):
            # A text that is read as a list can have the colon as an escape
            of_network = key in NETWORKS and (":" in name or "\\" in name)
            if of_network or (key == "PLUGINS" and name not in ("", "[]", "None")):
                yield key, name
