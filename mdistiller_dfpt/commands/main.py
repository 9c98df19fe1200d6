"""The console script: mdistiller-dfpt COMMAND ..."""

import sys
from collections.abc import Callable
from importlib.metadata import version

from ..errors import ConfigError
from ..launch.cli import guarded
from ..registry import suggest
from . import bench, check_data, doctor, evaluate, export, init, listing, plot, predict, report, table, train

COMMANDS: dict[str, Callable[[list[str] | None], int]] = {
    "init": init.main,
    "train": train.main,
    "eval": evaluate.main,
    "predict": predict.main,
    "export": export.main,
    "table": table.main,
    "report": report.main,
    "plot": plot.main,
    "check-data": check_data.main,
    "list": listing.main,
    "doctor": doctor.main,
    "bench": bench.main,
}
WHAT_THEY_DO = {name: (sys.modules[run.__module__].__doc__ or "").partition(":")[0] for name, run in COMMANDS.items()}


def usage() -> str:
    """The commands, one line each."""
    lines = [f"  {name:<11} {what[:1].lower()}{what[1:]}" for name, what in WHAT_THEY_DO.items()]
    return "\n".join(
        ["usage: mdistiller-dfpt COMMAND ...", "", *lines, "", "mdistiller-dfpt COMMAND --help: its options"]
    )


def _main(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
    elif argv[0] in ("--version", "version"):
        print(f"mdistiller-dfpt {version('mdistiller_dfpt')}, torch {version('torch')}")
    else:
        raise ConfigError(f"unknown command {argv[0]!r}; {suggest(argv[0], list(COMMANDS))}")


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    return guarded(_main, argv)
