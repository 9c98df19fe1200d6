"""One HTML page on finished runs: mdistiller-dfpt report FOLDER ... -o report.html [--title TITLE].

A table with spread and tests, learning curves, the paths of dual-path teachers, calibration, confusions, the most
confident mistakes, cost, and the protocols. The page needs no network and no scripts.
"""

from pathlib import Path

from ..errors import ConfigError
from ..launch.cli import Parser, check_output, guarded
from ..report.files import shown_below
from ..report.page import write_page


def _main(argv: list[str]) -> None:
    parser = Parser("report", __doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folders that contain runs")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="default: report.html")
    parser.add_argument("--title", default="Knowledge distillation", help="of the page")
    args = parser.parse_args(argv)
    if args.output.suffix not in (".html", ".htm"):
        raise ConfigError(f"-o {args.output}: the page is HTML; name it .html")
    check_output("-o", args.output)
    if missing := [str(folder) for folder in args.folders if not folder.is_dir()]:
        raise ConfigError(f"no such folder: {', '.join(missing)}")
    results, without = shown_below(args.folders)
    write_page(results, args.output, args.title, without)
    print(args.output)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
