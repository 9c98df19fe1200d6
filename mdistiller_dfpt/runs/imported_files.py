"""The files that a user's file imports from its own folder: what a run computes depends on them as well."""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from ..regular_files import read_text

OURS = Path(__file__).resolve().parents[1]
MOST_TEXT = 10_000_000


def with_imported(file: str | Path, module: str = "") -> set[str]:
    """The file, and those of the modules that it and they import from its folder, or from the package of `module`.

    They are found in the text, so that it does not matter what was imported before; what is computed as a name is not.
    """
    file = Path(file).resolve()
    root = file.parents[module.count(".") + (file.name == "__init__.py")]
    package = root / module.partition(".")[0] if "." in module or file.name == "__init__.py" else root
    if package in map(Path, sysconfig.get_paths().values()):  # of an installed module, all others are beside it
        return {str(file)}
    found: set[str] = set()
    left = [file, *_files_of(root, module)]  # with the packages around it
    while left:
        one = left.pop()
        if str(one) not in found and one.is_relative_to(package) and not one.is_relative_to(OURS):
            found.add(str(one))
            left += _imports(one, root)
    return found


def _imports(file: Path, root: Path) -> Iterator[Path]:
    """The files in `root` of the modules that the text of a file imports; none if it is no Python."""
    try:
        tree = ast.parse(read_text(file, MOST_TEXT))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from _files_of(root, name.name)
        elif isinstance(node, ast.ImportFrom):
            place = root if not node.level else file.parents[min(node.level, len(file.parents)) - 1]
            base = [node.module] if node.module else []
            for name in node.names:
                yield from _files_of(place, ".".join([*base, name.name]))


def _files_of(place: Path, name: str) -> Iterator[Path]:
    """The files of a dotted name and of the packages around it; its last word may be no module."""
    for part in filter(None, name.split(".")):
        yield from filter(Path.is_file, (place / f"{part}.py", place / part / "__init__.py"))
        place = place / part
