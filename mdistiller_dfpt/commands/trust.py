"""Say which folders hold files that may name code: mdistiller-dfpt trust [FOLDER] [--remove].

A config, a table or a run of a stranger can name code, which is run only if it lies in a folder that you trust.
Without FOLDER, the trusted folders are listed.
"""

import os
from pathlib import Path

from ..atomic import write_text
from ..errors import ConfigError
from ..launch.cli import Parser, guarded
from ..trusted_files import list_of_trusted, listed


def _main(argv: list[str]) -> None:
    parser = Parser("trust", __doc__, reads_configs=False)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="trust all files below it")
    parser.add_argument("--remove", action="store_true", help="trust them no longer")
    args = parser.parse_args(argv)
    folders = listed()
    if args.folder is None:
        print("\n".join(folders) or f"no folder is trusted; {list_of_trusted()} would list them")
        return
    folder = os.path.realpath(args.folder)
    if args.remove:
        if folder not in folders:
            raise ConfigError(f"{folder} is not in {list_of_trusted()}")
        folders.remove(folder)
    elif not os.path.isdir(folder):
        raise ConfigError(f"{args.folder}: no such folder")
    elif folder not in folders:
        folders.append(folder)
    list_of_trusted().parent.mkdir(parents=True, exist_ok=True)
    write_text(list_of_trusted(), "".join(f"{line}\n" for line in folders))
    print(f"{folder} is {'no longer trusted' if args.remove else 'trusted'}: {list_of_trusted()}")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
