"""The console script: mdistiller-dfpt COMMAND ...

A command is imported when it is chosen, so this file starts at once.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version

from ..errors import ConfigError, DataError
from ..launch.cli import guarded, prepare_process
from ..launch.machine_faults import fault_of_the_machine
from ..parent import stop_with_launcher
from ..registry import suggest

COMMANDS = {
    "init": ("init", "write a config for images of your own"),
    "train": ("train", "train a network, or distil one from a teacher"),
    "eval": ("evaluate", "evaluate a student or any checkpoint"),
    "predict": ("predict", "predict the classes of images"),
    "export": ("export", "export a trained student"),
    "search": ("search", "search for hyperparameters at equal budgets"),
    "table": ("table", "tables of results"),
    "report": ("report", "one HTML page on finished runs"),
    "plot": ("plot", "plot runs or the gains of a table"),
    "check-data": ("check_data", "check every image of a dataset and print all errors"),
    "shrink": ("shrink", "copy a folder of images with the large ones made smaller"),
    "list": ("listing", "list what there is"),
    "doctor": ("doctor", "say what this machine can do and which settings suit it"),
    "trust": ("trust", "say which folders hold files that may name code"),
    "bench": ("bench", "time a config"),
}
"""{command: (its module in this package, what it does)}."""


def usage() -> str:
    """The commands, one line each."""
    lines = [f"  {name:<11} {what}" for name, (_, what) in COMMANDS.items()]
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


def command(name: str) -> Callable[[list[str] | None], int]:
    """The function that runs a command with its arguments and returns the exit code."""
    try:
        prepare_process()
    except ConfigError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    stop_with_launcher()
    try:
        return import_module(f".{COMMANDS[name][0]}", __package__).main
    except Exception as e:  # that a library could not be loaded is no bug of it
        fault = fault_of_the_machine(e)
        if fault is None and isinstance(e, OSError) and e.filename is not None:  # a folder that a library was given
            fault = DataError(f"{e.filename}: {e.strerror}")
        if fault is None:
            raise
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(fault.exit_code)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return command(argv[0])(argv[1:])
    return guarded(_main, argv)
