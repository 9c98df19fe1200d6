"""Trains or smoke-tests the cells of a table; a failing cell never stops the others."""

import contextlib
import multiprocessing
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ..config.effect import deciding_values, value_of
from ..distillers.choice import choice, situation
from ..errors import UserError
from ..interop.plugins import load_cfg
from ..report.spec import Cell
from .smoke import smoke
from .trained import OF_PLACE

TRAIN = [sys.executable, "-m", "mdistiller_dfpt", "train"]
Process: TypeAlias = "subprocess.Popen[bytes]"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)


class Interrupted(UserError):
    """A signal stopped the jobs: those that ran have saved, those that had not begun are not begun."""

    def __init__(self, number: int):
        super().__init__("interrupted; repeat the same command to go on")
        self.exit_code = 128 + number


@dataclass(frozen=True)
class Job:
    """One training job: the arguments of `train`, and the log file for its output."""

    label: str
    words: tuple[str, ...]
    log: Path


def cell_configs(cell: Cell, opts: Sequence[str]) -> list[dict[str, Any]]:
    """The keys that decide the result of a cell and differ from their defaults, without the seed.

    Twice: for a dataset of image files and for one in memory, since the dataset is not loaded here.
    """
    cfg = load_cfg(cell.config, [*cell.overrides, *opts])
    both = [deciding_values(situation(cfg, in_files=in_files)) for in_files in (True, False)]
    return [{key: value for key, value in values.items() if key != "SOLVER.SEED"} for values in both]


def cell_job(cell: Cell, seed: int, prefix: Path, opts: Sequence[str]) -> Job:
    """The job for one seed of a cell; it resumes an interrupted run."""
    words = (*cell.overrides, "SOLVER.SEED", str(seed), "LOG.PREFIX", str(prefix), *opts)
    log = prefix / "table_logs" / f"{cell.folder.replace('/', '_')}_seed{seed}.txt"
    return Job(f"{cell.row} {cell.column} seed {seed}", ("--cfg", str(cell.config), "--resume", "auto", *words), log)


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
        log = prefix / "table_logs" / f"teacher_{name}.txt"
        jobs[path] = Job(f"teacher {name}", ("--cfg", path, "--resume", "auto", *words), log)
    return list(jobs.values())


def run_jobs(jobs: Sequence[Job], parallel: int, say: Callable[[str], None]) -> list[Job]:
    """Run all jobs, `parallel` at a time, each in its own process; returns the failed jobs.

    A signal that stops this process is passed on to the jobs, which save and end; then `Interrupted` is raised.
    """
    failed: list[Job] = []
    with _passing_signals_on() as (running, got), ThreadPoolExecutor(parallel) as pool:
        pending = {pool.submit(_run, job, say, running, got): job for job in jobs}
        for number, future in enumerate(as_completed(pending), start=1):
            if got:
                pool.shutdown(wait=True, cancel_futures=True)
                raise Interrupted(got[0])
            job, code = pending[future], future.result()
            ended = "done" if code == 0 else f"failed with {code}, see {job.log}"
            say(f"[{number}/{len(jobs)}] {job.label}: {ended}")
            if code:
                failed.append(job)
    return failed


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[tuple[set[Process], list[int]]]:
    """Context in which signals go to the processes in the set that it yields, and are noted in the list.

    The processes are in sessions of their own, so that each signal reaches them once: a second one ends them at once.
    """
    running: set[Process] = set()
    got: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        got.append(number)
        for process in tuple(running):
            process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield running, got
        return
    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield running, got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(job: Job, say: Callable[[str], None], running: set[Process], got: list[int]) -> int:
    if got:  # a job that ended for it has made room for this one
        return 128 + got[0]
    say(f"{job.label} ... (log: {job.log})")
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "a", encoding="utf-8") as log:
        process = subprocess.Popen([*TRAIN, *job.words], stdout=log, stderr=log, start_new_session=True)
        running.add(process)
        if got:  # since then
            process.send_signal(got[0])
        try:
            return process.wait()
        finally:
            running.discard(process)


def smoke_cells(cells: Sequence[Cell], parallel: int, say: Callable[[str], None]) -> list[Cell]:
    """Two steps of every cell on random images, without data or teachers; returns the failed cells."""
    failed = []
    with ProcessPoolExecutor(parallel, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending = {pool.submit(_smoke, cell): cell for cell in cells}
        try:
            for number, future in enumerate(as_completed(pending), start=1):
                cell, fault = pending[future], future.result()
                if fault:
                    failed.append(cell)
                say(f"[{number}/{len(cells)}] {cell.row} {cell.column}: {fault or 'ok'}")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise Interrupted(signal.SIGINT) from None
    return failed


def _smoke(cell: Cell) -> str:
    torch.set_num_threads(1)
    try:
        smoke(load_cfg(cell.config, cell.overrides))
        return ""
    except UserError as e:
        return str(e)
    except Exception as e:  # any error of a cell is the result of that cell
        return f"{type(e).__name__}: {e}"
