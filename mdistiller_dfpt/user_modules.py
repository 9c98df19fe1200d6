"""Modules of files that a user names, which a process that was spawned can import as well, by their places."""

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from types import ModuleType

from .errors import USER_FILES

PLACES: dict[str, str] = {}
"""{module: file}, of modules that are in no folder where Python looks for them."""


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:  # fmt: skip
        return spec_from_file_location(name, PLACES[name]) if name in PLACES else None


def import_from(places: Mapping[str, str]) -> None:
    """From now on, these modules can be imported in this process, and are a user's."""
    PLACES.update(places)
    USER_FILES.update(places.values())
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
