"""Plot runs or the gains of a table: mdistiller-dfpt plot FOLDER -o curve.png, or --table FILE -o gains.png.

FOLDER: the easy-to-hard curve of DFPT-KD runs that differ only in their seed. --table: what the rows of a table gain
over its reference row, against the accuracy of each pair's teacher.
"""

import sys
from pathlib import Path

from ..errors import ConfigError
from ..launch.cli import Parser, guarded
from ..launch.table_jobs import cell_configs
from ..report import load_results
from ..report.cells import evaluate_table
from ..report.curves import plot_curves
from ..report.files import unfinished
from ..report.gains import plot_gains
from ..report.render import notes
from ..report.spec import load_table


def _main(argv: list[str]) -> None:
    parser = Parser("plot", __doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of runs that differ only in their seed")
    parser.add_argument("--table", type=Path, help="yaml file of a table")
    parser.add_argument("--prefix", type=Path, help="LOG.PREFIX of the table's runs, default ./output")
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write (.png, .svg, .pdf)")
    parser.add_argument("--title", help="of a folder's curve; default: the folder's name")
    args = parser.parse_args(argv)
    if (args.folder is None) == (args.table is None):
        raise ConfigError("give either a FOLDER of runs or --table FILE")
    if args.table is None:
        if args.prefix is not None:
            raise ConfigError("--prefix needs --table; the runs of a curve are those of FOLDER")
        results = load_results(args.folder)
        for line in unfinished(args.folder):
            print(f"not drawn: {line}", file=sys.stderr)
        plot_curves(results, args.output, args.title or args.folder.as_posix())
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
