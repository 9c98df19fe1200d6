"""Tables of results: mdistiller-dfpt table FOLDER, or --table FILE [--run | --smoke].

FOLDER prints mean and spread over seeds of every run below it. --table prints a table defined by a yaml file
(configs/tables) from the result files below --prefix; --run trains the missing cells first, each in a job of its own
that --launcher starts: on this machine, on each of its GPUs, or in the queue of a cluster. Several of these commands
may work on one table at once. --smoke runs two steps of every cell on random images instead, --cost says how long all
would take. KEY VALUE overrides are passed on to every run.
"""

import argparse
from pathlib import Path
from typing import Any

from ..bench.table_cost import cost_of_table, rate_of
from ..errors import ConfigError, UserError
from ..launch.cli import Parser, guarded
from ..launch.jobs import Ended, labels, run_jobs, say
from ..launch.launchers import LAUNCHERS, OPTIONS, add_launcher, launcher_of
from ..launch.table_jobs import LOGS, cell_configs, cell_job, smoke_cells, teacher_jobs
from ..report import markdown_table
from ..report.cells import evaluate_table, runs_of
from ..report.files import shown_results, unfinished
from ..report.render import FORMATS
from ..report.spec import METRICS, Cell, load_table

OF_TABLES = ("prefix", "metric", "seeds", "rows", "columns", "format", "run", "smoke", "cost", "launcher", *OPTIONS)
"""Options that need --table."""
OF_RESULTS = ("prefix", "metric", "seeds", "format", "run", "cost", "launcher", "gpus", "slurm")
"""Options that --smoke has no use for."""
OF_TRAINING = ("prefix", "metric", "format", "run", "launcher", *OPTIONS)
"""Options that --cost has no use for."""
OF_RUNS = ("launcher", "gpus", "slurm")
"""Options that need --run."""
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
    add_launcher(parser, tuple(LAUNCHERS), "cell")
    parser.add_argument(
        "--cost", type=Path, metavar="RECORD", help="print the hours of all cells on 1, 8 and 64 GPUs like the one that"
        " `bench --json RECORD` timed, or cores"
    )  # fmt: skip
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
    if args.cost and (unused := [f"--{name}" for name in OF_TRAINING if vars(args)[name]]):
        raise ConfigError(f"{', '.join(unused)} with --cost, which trains nothing: leave it out")
    if not args.run and not args.smoke and (unused := [f"--{name}" for name in OF_RUNS if vars(args)[name]]):
        raise ConfigError(f"{', '.join(unused)} without --run, which trains the missing cells: add it, or leave it out")
    args.prefix, args.format = args.prefix or Path("./output"), args.format or "markdown"
    launcher = launcher_of(args, args.prefix / LOGS / "submitit")
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
    if args.cost:
        print(cost_of_table(cells, args.opts, len(seeds), rate_of(args.cost), say))
        return
    if args.smoke:
        failed = smoke_cells(list(cells.values()), args.opts, launcher.parallel, say)
        if failed:
            raise CellsFailed(f"{len(failed)} of {len(cells)} cells failed")
        return
    for key, option in OF_OPTIONS.items():
        if key in args.opts[::2]:
            raise ConfigError(f"{key} is that of all cells: give {option} instead")

    def expected(cell: Cell) -> list[dict[str, Any]]:
        return cell_configs(cell, args.opts)

    def is_missing(cell: Cell, seed: int) -> bool:
        return seed not in runs_of(cell, args.prefix, seeds, expected(cell)).by_seed

    ended = Ended([], [])
    if args.run:
        missing = [(cell, seed) for cell in cells.values() for seed in seeds if is_missing(cell, seed)]
        teachers = teacher_jobs([cell for cell, _ in missing], args.prefix, args.opts)
        jobs = {cell_job(cell, seed, args.prefix, args.opts): (cell, seed) for cell, seed in missing}
        of_teachers = run_jobs(teachers, launcher, say, wait_for_others=True)  # which their cells need
        ended = run_jobs(list(jobs), launcher, say, lambda job: not is_missing(*jobs[job]))
        ended.failed[:0] = of_teachers.failed
    print(FORMATS[args.format](spec, evaluate_table(spec, args.prefix, metric, seeds, expected), metric, seeds))
    if ended.elsewhere:
        say(f"left to other launchers, which train {len(ended.elsewhere)} cells: {labels(ended.elsewhere)}; the same"
            " command prints the whole table once they have ended")  # fmt: skip
    if ended.failed:
        raise CellsFailed(f"{len(ended.failed)} runs failed: {labels(ended.failed)}")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
