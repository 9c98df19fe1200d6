"""List what there is: mdistiller-dfpt list WHAT [WHICH].

WHAT is methods, teachers, networks, data, augmentations, optimisers, schedules, keys, configs or runs.

WHICH restricts the list to names that contain it or match it as a pattern with wildcards; of runs, it is the folder
that contains them, default ./output. The networks of torchvision are listed as well, and those of timm if installed.
"""

import fnmatch
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..config.compose import CONFIGS, composed_runs
from ..config.keys import KEYS
from ..data import AUGMENTATIONS, DATASETS
from ..distillers import DISTILLERS
from ..errors import ConfigError
from ..launch.cli import Parser, guarded
from ..models import MODELS
from ..models.external.names import external_networks
from ..registry import described
from ..report.files import shown_results, unfinished
from ..teachers import TEACHERS
from ..training.optim import OPTIMIZERS, SCHEDULES

Lines = Iterator[tuple[str, str]]
"""Names, and what is said of each."""


def _described(registry: dict[str, Any]) -> Lines:
    """The names of a registry and the first lines of the files in which they are defined."""
    for name, entry in sorted(registry.items()):
        yield name, described(entry)


def _explained(registry: dict[str, Any]) -> Lines:
    """The names of a registry and the first lines of what is said of each function or class."""
    for name, entry in sorted(registry.items()):
        yield name, (entry.__doc__ or described(entry)).strip().partition("\n")[0]


def _networks() -> Lines:
    for name in sorted(MODELS):
        yield name, ""
    for name in external_networks():
        yield name, ""


def _keys() -> Lines:
    for name, key in KEYS.items():
        default = "not set" if key.default is None else repr(key.default)
        allowed = f" ({key.limit.words})" if key.limit is not None else ""
        yield name, f"{default}{allowed}  {key.meaning}".rstrip()


def _configs() -> Lines:
    for name in composed_runs(CONFIGS):
        yield name, ""


LISTS: dict[str, Callable[[], Lines]] = {
    "methods": lambda: _described(DISTILLERS),
    "teachers": lambda: _described(TEACHERS),
    "networks": _networks,
    "data": lambda: _described(DATASETS),
    "augmentations": lambda: _described(AUGMENTATIONS),
    "optimisers": lambda: _explained(OPTIMIZERS),
    "schedules": lambda: _explained(SCHEDULES),
    "keys": _keys,
    "configs": _configs,
}


def _runs(folder: Path) -> list[str]:
    """One line for each run below a folder: finished ones with their accuracy, then the others with their state."""
    if not folder.is_dir():
        raise ConfigError(f"list runs: there is no folder {folder}; give the folder that contains the runs")
    others = unfinished(folder)
    if not any(folder.rglob("results.json")):
        return others
    lines = []
    for result in shown_results(folder):
        top1 = result.data["final"]["top1"]
        where = result.path.parent.relative_to(folder).as_posix()
        lines.append(f"{where}: finished, {result.data['method']}, top-1 {top1['last']:.2f} (best {top1['best']:.2f})")
    return lines + others


def _main(argv: list[str]) -> None:
    parser = Parser("list", __doc__, reads_configs=False)
    parser.add_argument("what", choices=[*LISTS, "runs"])
    parser.add_argument("which", nargs="?", metavar="WHICH", help="a part of the names, a pattern, or a folder of runs")
    args = parser.parse_args(argv)
    if args.what == "runs":
        print("\n".join(_runs(Path(args.which or "./output"))) or "no runs")
        return
    wanted = (args.which or "*").lower()
    found = [
        (name, what) for name, what in LISTS[args.what]()
        if wanted in name.lower() or fnmatch.fnmatch(name.lower(), wanted)
    ]  # fmt: skip
    if not found:
        raise ConfigError(f"list {args.what} {args.which}: nothing matches")
    width = max(len(name) for name, _ in found)
    print("\n".join(f"{name:<{width}}  {what}".rstrip() for name, what in found))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
