"""Plot runs or the gains of a table: mdistiller-dfpt plot FOLDER ... -o curves.png, or --table FILE -o gains.png.

FOLDER ...: the accuracy of the student by epoch of all runs below; runs that differ only in their seed are one curve,
with a band from the lowest to the highest. --paths: of one such group whose teacher has a trained path, as with
DFPT-KD, the accuracies of all paths and how close they are (the easy-to-hard curve). --table: what the rows of a table
gain over its reference row, against the accuracy of each pair's teacher.
"""

import sys
from pathlib import Path

from ..errors import ConfigError
from ..launch.cli import Parser, guarded
from ..launch.table_jobs import cell_configs
from ..report.cells import evaluate_table
from ..report.curves import plot_curves, plot_learning
from ..report.files import apart, shown_below
from ..report.gains import plot_gains
from ..report.render import notes
from ..report.spec import load_table
from ..report.table import table_of


def _main(argv: list[str]) -> None:
    parser = Parser("plot", __doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="folders that contain runs")
    parser.add_argument(
        "--paths", action="store_true", help="draw the teacher's paths of runs that differ in their seed"
    )
    parser.add_argument("--table", type=Path, help="yaml file of a table")
    parser.add_argument("--prefix", type=Path, help="LOG.PREFIX of the table's runs, default ./output")
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write (.png, .svg, .pdf)")
    parser.add_argument("--title", help="of the curves; default: the names of the folders")
    args = parser.parse_args(argv)
    if bool(args.folders) == (args.table is not None):
        raise ConfigError("give either a FOLDER of runs or --table FILE")
    if args.table is None:
        if args.prefix is not None:
            raise ConfigError("--prefix needs --table; the runs of a curve are those of FOLDER")
        results, without = shown_below(args.folders)
        runs = table_of(results)
        title = args.title or ", ".join(folder.as_posix() for folder in apart(args.folders))
        for line in [*runs.repeats, *without]:
            print(f"not drawn: {line}", file=sys.stderr)
        if args.paths:
            plot_curves(results, args.output, title)
        else:
            names = (row[0] for row in runs.rows)
            plot_learning(dict(zip(names, runs.groups, strict=True)), args.output, title)
    elif args.paths:
        raise ConfigError("--paths is for a FOLDER of runs")
    else:
        if args.title is not None:
            raise ConfigError("--title is for a FOLDER; a table has its own title")
        spec = load_table(args.table)
        prefix = args.prefix or Path("./output")
        values = evaluate_table(spec, prefix, spec.metric, spec.seeds, lambda cell: cell_configs(cell, ()))
        plot_gains(spec, values, args.output)
        for line in notes(spec, values, spec.seeds):
            print(f"note: {line}", file=sys.stderr)
    print(args.output)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
