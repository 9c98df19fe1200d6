"""Print what stands in result files: python tools/table.py FOLDER, mean and spread over seeds as Markdown."""

import argparse
import sys
from pathlib import Path

from mdistiller_dfpt.cli import guarded
from mdistiller_dfpt.report import load_results, markdown_table


def _main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="table.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder that holds run directories, as ./output or results/study")
    print(markdown_table(load_results(parser.parse_args(argv).folder)))


def main(argv: list[str] | None = None) -> int:
    return guarded(_main, argv)


if __name__ == "__main__":
    sys.exit(main())
