"""Tables of results: mdistiller-dfpt table FOLDER, or --table FILE [--run | --smoke].

FOLDER prints mean and spread over seeds of every run below it. --table prints a table defined by a yaml file
(configs/tables) from the result files below --prefix; --run trains the missing cells first, --smoke runs two steps of
every cell on random images instead. KEY VALUE overrides are passed on to every run.
"""

import argparse
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UserError
from ..launch.cli import Parser, guarded
from ..launch.jobs import Job, run_jobs, say
from ..launch.table_jobs import cell_configs, cell_job, smoke_cells, teacher_jobs
from ..report import markdown_table
from ..report.cells import evaluate_table, runs_of
from ..report.files import shown_results, unfinished
from ..report.render import FORMATS
from ..report.spec import METRICS, Cell, load_table

OF_TABLES = ("prefix", "metric", "seeds", "rows", "columns", "format", "run", "smoke", "jobs")
"""Options that need --table."""
OF_RESULTS = ("prefix", "metric", "seeds", "format", "run")
"""Options that --smoke has no use for."""
OF_OPTIONS = {"SOLVER.SEED": "--seeds", "LOG.PREFIX": "--prefix"}
"""Keys that a table sets for its cells, by the options which decide them."""


class CellsFailed(UserError):
    """Some runs of a table failed; the others are complete."""

    exit_code = 1


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser("table", __doc__)
    parser.add_argument("--table", type=Path, help="yaml file of a table")
    parser.add_argument("--prefix", type=Path, help="LOG.PREFIX of the runs, default ./output")
    parser.add_argument("--metric", choices=METRICS, help="default: the table's")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the table's")
    parser.add_argument("--rows", nargs="+", help="only these rows, plus the reference row")
    parser.add_argument("--columns", nargs="+", help="only these columns")
    parser.add_argument("--format", choices=sorted(FORMATS), help="default: markdown")
    parser.add_argument("--run", action="store_true", help="train the missing cells first")
    parser.add_argument("--smoke", action="store_true", help="run two steps of every cell on random images")
    parser.add_argument("--jobs", type=int, help="number of parallel runs, default 1")
    parser.add_argument("opts", nargs="*", metavar="FOLDER | KEY VALUE", help="a folder, or overrides for every run")
    return parser.parse_intermixed_args(argv)


def _main(argv: list[str]) -> None:
    args = _arguments(argv)
    if args.table is None:
        if len(args.opts) != 1:
            what = f"{len(args.opts)} folders are" if args.opts else "nothing is"
            raise ConfigError(f"{what} given: give one FOLDER of results, which may hold folders, or --table FILE")
        if unused := [f"--{name}" for name in OF_TABLES if vars(args)[name] not in (None, False)]:
            raise ConfigError(f"{', '.join(unused)} without --table: a FOLDER is printed as a whole, in Markdown; "
                              "name runs in a table's yaml file, as in configs/tables")  # fmt: skip
        folder = Path(args.opts[0])
        print(markdown_table(shown_results(folder), unfinished(folder)))
        return
    if args.smoke and (unused := [f"--{name}" for name in OF_RESULTS if vars(args)[name]]):
        raise ConfigError(f"{', '.join(unused)} with --smoke, which trains nothing and prints no table: leave it out")
    args.prefix, args.format = args.prefix or Path("./output"), args.format or "markdown"
    args.jobs = 1 if args.jobs is None else args.jobs
    if args.jobs < 1:
        raise ConfigError(f"--jobs is {args.jobs}; it must be at least 1")
    spec = load_table(args.table)
    for option, wanted, known in (("--rows", args.rows, spec.rows), ("--columns", args.columns, spec.columns)):
        for name in wanted or ():
            if name not in known:
                raise ConfigError(f"{option} names {name}; {args.table} has {', '.join(known)}")
    rows = {*(args.rows or spec.rows), *([spec.reference] if args.rows else [])}
    columns = args.columns or spec.columns
    cells = {key: cell for key, cell in spec.cells.items() if key[0] in rows and key[1] in columns}
    spec = spec._replace(cells=cells, columns={key: spec.columns[key] for key in spec.columns if key in columns})
    seeds, metric = tuple(args.seeds or spec.seeds), args.metric or spec.metric
    if args.smoke:
        failed = smoke_cells(list(cells.values()), args.opts, args.jobs, say)
        if failed:
            raise CellsFailed(f"{len(failed)} of {len(cells)} cells failed")
        return
    for key, option in OF_OPTIONS.items():
        if key in args.opts[::2]:
            raise ConfigError(f"{key} is that of all cells: give {option} instead")
    failures: list[Job] = []

    def expected(cell: Cell) -> list[dict[str, Any]]:
        return cell_configs(cell, args.opts)

    if args.run:
        missing = [
            (cell, seed) for cell in cells.values() for seed in seeds
            if seed not in runs_of(cell, args.prefix, seeds, expected(cell)).by_seed
        ]  # fmt: skip
        failures = run_jobs(teacher_jobs([cell for cell, _ in missing], args.prefix, args.opts), args.jobs, say)
        jobs = [cell_job(cell, seed, args.prefix, args.opts) for cell, seed in missing]
        failures += run_jobs(jobs, args.jobs, say)
    print(FORMATS[args.format](spec, evaluate_table(spec, args.prefix, metric, seeds, expected), metric, seeds))
    if failures:
        raise CellsFailed(f"{len(failures)} runs failed: {', '.join(job.label for job in failures)}")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
