"""A registry: a dict with a decorator; rejects duplicate names and suggests the closest known ones."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Generic, TypeVar, cast

from .errors import ConfigError

T = TypeVar("T")
Entry = TypeVar("Entry")
MOST_SHOWN = 40  # names in an error message

TABLES: list[dict[Any, Any]] = []
"""All that registering changes: the registries, and the tables of config keys."""


@contextmanager
def restored_on_error(*more: dict[Any, Any]) -> Iterator[None]:
    """Context in which an exception removes everything that was registered, and what was added to the dicts `more`."""
    before = [(table, dict(table)) for table in (*TABLES, *more)]
    try:
        yield
    except BaseException:
        for table, contents in before:
            table.clear()
            table.update(contents)
        raise


def suggest(name: str, known: Sequence[str] | Mapping[str, str]) -> str:
    """The end of an error message: the closest known names, or all of them; of a mapping, its values."""
    named = known if isinstance(known, Mapping) else {name: name for name in sorted(map(str, known))}
    by_lower: dict[str, str] = {}
    for key, shown in named.items():
        by_lower.setdefault(key.lower(), shown)
    close = get_close_matches(str(name).lower(), list(by_lower), n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(by_lower[c] for c in close)}?"
    names = list(by_lower.values())
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return f"choose from {', '.join(names[:MOST_SHOWN])}{more}"


def described(entry: Any) -> str:
    """The first line of the file in which a registered class or function is defined; empty if it says nothing."""
    return (sys.modules[entry.__module__].__doc__ or "").strip().partition("\n")[0]


class Registry(dict[str, T], Generic[T]):
    """Maps names to classes or functions. `what` is the kind of entry and `key` names it, for error messages."""

    def __init__(self, what: str, key: str = ""):
        super().__init__()
        self.what, self.key = what, key
        self.a_what = f"{'an' if what[0] in 'aeio' else 'a'} {what}"
        TABLES.append(self)

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator that registers its target under `name` and returns it; raises KeyError if the name is taken."""

        def add(target: Entry) -> Entry:
            if name in self:
                raise KeyError(f"there is {self.a_what} {name!r} already ({self[name]}): choose another name")
            self[name] = cast(T, target)
            return target

        return add

    def __missing__(self, name: str) -> T:
        where = f"{self.key}: " if self.key else ""
        raise ConfigError(f"{where}unknown {self.what} {name!r}; {suggest(name, list(self))}")
