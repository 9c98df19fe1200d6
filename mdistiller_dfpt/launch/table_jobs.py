"""The training jobs of a table's cells and of their teachers; smoke tests of cells."""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from ..config.effect import deciding_values, value_of
from ..distillers.choice import choice, situation
from ..errors import ConfigError, UserError, kind_and_message
from ..handlers import interrupts_later
from ..interop.plugins import load_cfg
from ..parent import stop_with_pool
from ..report.spec import Cell
from ..runs.directory import run_name
from .jobs import Job
from .smoke import smoke
from .trained import OF_PLACE

LOGS = "table_logs"
"""The folder below LOG.PREFIX with the logs of a table's jobs."""


def cell_configs(cell: Cell, opts: Sequence[str]) -> list[dict[str, Any]]:
    """The keys that decide the result of a cell and differ from their defaults, without the seed.

    Twice: for a dataset of image files and for one in memory, since the dataset is not loaded here. ConfigError if its
    runs are where no table looks.
    """
    cfg = load_cfg(cell.config, [*cell.overrides, *opts])
    if (name := Path(run_name(cfg)).parent) != Path(cell.folder):
        raise ConfigError(f"{cell.row} {cell.column}: its runs are in {name}, and a table looks for them in"
                          f" {cell.folder}: leave out EXPERIMENT.NAME and EXPERIMENT.TAG")  # fmt: skip
    both = [deciding_values(situation(cfg, in_files=in_files)) for in_files in (True, False)]
    return [{key: value for key, value in values.items() if key != "SOLVER.SEED"} for values in both]


def cell_job(cell: Cell, seed: int, prefix: Path, opts: Sequence[str]) -> Job:
    """The job for one seed of a cell; it resumes an interrupted run."""
    words = (*cell.overrides, "SOLVER.SEED", str(seed), "LOG.PREFIX", str(prefix), *opts)
    log = prefix / LOGS / f"{cell.folder.replace('/', '_')}_seed{seed}.txt"
    label, words = f"{cell.row} {cell.column} seed {seed}", ("--cfg", str(cell.config), "--resume", "auto", *words)
    return Job(label, words, log, prefix / cell.folder / f"seed{seed}")


def teacher_jobs(cells: Iterable[Cell], prefix: Path, opts: Sequence[str]) -> list[Job]:
    """One job per config that trains a teacher, so that no two cells train it at the same time.

    The overrides of the cells are not passed on to it: a teacher is what its own config says, as in a single run.
    """
    jobs: dict[str, Job] = {}
    for cell in cells:
        cfg = load_cfg(cell.config, [*cell.overrides, *opts])
        path, chosen = cfg.DISTILLER.TEACHER_CFG, choice(cfg)
        needs_one = chosen.teacher and not chosen.starts_untrained and not cfg.DISTILLER.TEACHER_CKPT
        if not needs_one or not path or path in jobs:
            continue
        given = {key: value for key in OF_PLACE if (value := value_of(cfg, key)) is not None}
        place = [word for key, value in given.items() for word in (key, str(value))]
        name, words = Path(path).stem, ("LOG.PREFIX", str(prefix), *place)
        run = prefix / run_name(load_cfg(path, words))
        log = prefix / LOGS / f"teacher_{name}.txt"
        jobs[path] = Job(f"teacher {name}", ("--cfg", path, "--resume", "auto", *words), log, run)
    return list(jobs.values())


def smoke_cells(
    cells: Sequence[Cell], opts: Sequence[str], parallel: int, say: Callable[[str], None]
) -> list[Cell]:  # fmt: skip
    """Two steps of every cell, with these KEY VALUE pairs, on random images, without data; returns the failed cells."""
    failed = []
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as scratch,  # of a process that is ended, which cannot clean up itself
        ProcessPoolExecutor(parallel, mp_context=context, initializer=stop_with_pool) as pool,
    ):
        try:
            with interrupts_later():
                pending = {pool.submit(_smoke, cell, opts, scratch): cell for cell in cells}
            for number, future in enumerate(as_completed(pending), start=1):
                cell, fault = pending[future], _fault(future)
                if fault:
                    failed.append(cell)
                say(f"[{number}/{len(cells)}] {cell.row} {cell.column}: {fault or 'ok'}")
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return failed


def _fault(future: "Future[str]") -> str:
    try:
        return future.result()
    except BrokenProcessPool:
        return "a process of the smoke test died, as when memory runs out"


def _smoke(cell: Cell, opts: Sequence[str], scratch: str) -> str:
    torch.set_num_threads(1)
    tempfile.tempdir = scratch
    try:
        smoke(load_cfg(cell.config, [*cell.overrides, *opts]))
        return ""
    except UserError as e:
        return str(e)
    except Exception as e:  # any error of a cell is the result of that cell
        return kind_and_message(e)
