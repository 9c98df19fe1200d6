"""Plot the easy-to-hard curve of DFPT-KD runs: python tools/plot.py FOLDER -o curve.png."""

import sys
from pathlib import Path

from mdistiller_dfpt.launch.cli import Parser, guarded
from mdistiller_dfpt.report import load_results
from mdistiller_dfpt.report.curves import plot_curves
from mdistiller_dfpt.report.files import unfinished


def _main(argv: list[str]) -> None:
    parser = Parser("plot.py", __doc__)
    parser.add_argument("folder", type=Path, help="folder of runs that differ only in their seed")
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write (.png, .svg, .pdf)")
    parser.add_argument("--title", help="default: the folder's name")
    args = parser.parse_args(argv)
    results = load_results(args.folder)
    for line in unfinished(args.folder):
        print(f"not drawn: {line}", file=sys.stderr)
    plot_curves(results, args.output, args.title or args.folder.as_posix())
    print(args.output)


def main(argv: list[str] | None = None) -> int:
    return guarded(_main, argv)


if __name__ == "__main__":
    sys.exit(main())
