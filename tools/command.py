"""Starts a command from a checkout, whether or not the package is installed."""

import sys
from pathlib import Path


def run(name: str) -> None:
    """Run a command with the arguments of this process and exit with its code."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    try:
        from mdistiller_dfpt.handlers import end_at_once

        end_at_once()
        from mdistiller_dfpt.commands.main import command

        main = command(name)
    except ModuleNotFoundError as e:
        checkout = Path(__file__).parents[1]
        print(f"error: {e.name} is not installed: run `pip install -e .` in {checkout}", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(None))
