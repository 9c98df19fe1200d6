"""Training jobs in processes of their own: run, watched, interrupted by a signal that each of them gets once."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import UserError
from ..handlers import STOP_SIGNALS, handled
from ..parent import environment_of_job
from ..regular_files import opened_to_change

TRAIN = [sys.executable, "-m", "mdistiller_dfpt", "train"]
Process: TypeAlias = "subprocess.Popen[bytes]"
Watch: TypeAlias = Callable[[int], bool]
"""Called with the process id of a running job; True: the job is to save and end."""
WATCH_EVERY = 0.5  # seconds


def say(line: str) -> None:
    """Print a line on the progress of jobs, at once, since they are in threads."""
    print(f"{line}\n", end="", file=sys.stderr, flush=True)


class Interrupted(UserError):
    """A signal stopped the jobs: those that ran have saved, those that had not begun are not begun."""

    def __init__(self, number: int):
        super().__init__("interrupted; repeat the same command to go on")
        self.exit_code = 128 + number


@dataclass(frozen=True)
class Job:
    """One training job: the arguments of `train`, or of another program, and the log file for its output."""

    label: str
    words: tuple[str, ...]
    log: Path
    program: tuple[str, ...] = ()


def run_jobs(jobs: Sequence[Job], parallel: int, say: Callable[[str], None]) -> list[Job]:
    """Run all jobs, `parallel` at a time, each in its own process; returns the failed jobs.

    A signal that stops this process is passed on to the jobs, which save and end; then `Interrupted` is raised. If it
    is killed, they save and end, too.
    """
    failed: list[Job] = []

    def run(job: Job) -> int:
        if not got:
            say(f"{job.label} ... (log: {job.log})")
        return _run(job, running, got)

    with _passing_signals_on() as (running, got), ThreadPoolExecutor(parallel) as pool:
        pending = {pool.submit(run, job): job for job in jobs}
        for number, future in enumerate(as_completed(pending), start=1):
            if got:
                break
            job, code = pending[future], future.result()
            ended = "done" if code == 0 else f"failed with {code}, see {job.log}"
            say(f"[{number}/{len(jobs)}] {job.label}: {ended}")
            if code:
                failed.append(job)
        if got:  # also behind the last job
            pool.shutdown(cancel_futures=True)
            raise Interrupted(got[0])
    return failed


Start: TypeAlias = Callable[[Job, Watch], int]
"""Runs one watched job and returns its exit code, negative if a signal ended it."""


@contextlib.contextmanager
def watched_jobs(grace: float | None = None) -> Iterator[Start]:
    """Context that yields a `Start` for any thread; it raises `Interrupted` as `run_jobs` does, and so does the end.

    A job that was told to end is killed after `grace` seconds, with the processes of its group; None: it is never.
    """
    with _passing_signals_on() as (running, got):

        def start(job: Job, watch: Watch) -> int:
            code = _run(job, running, got, watch, grace)
            if got:
                raise Interrupted(got[0])
            return code

        yield start
        if got:
            raise Interrupted(got[0])


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[tuple[set[Process], list[int]]]:
    """Context in which signals go to the processes in the set that it yields, and are noted in the list.

    The processes are in sessions of their own, so that each signal reaches them once, by this process.
    """
    running: set[Process] = set()
    got: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        got.append(number)
        for process in tuple(running):
            process.send_signal(number)

    with handled(STOP_SIGNALS, pass_on):
        yield running, got


def _run(
    job: Job, running: set[Process], got: list[int], watch: Watch | None = None, grace: float | None = None
) -> int:  # fmt: skip
    if got:  # a job that ended for it has made room for this one
        return 128 + got[0]
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with opened_to_change(job.log, append=True) as log:
        process = subprocess.Popen(
            [*(job.program or TRAIN), *job.words],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment_of_job(),
        )
        running.add(process)
        if got:  # since then
            process.send_signal(got[0])
        try:
            return process.wait() if watch is None else _wait(process, watch, got, grace)
        finally:
            running.discard(process)


def _wait(process: Process, watch: Watch, got: list[int], grace: float | None) -> int:
    """The exit code of a process that is watched until it ends, or is told to end."""
    told: float | None = None  # when
    while True:
        try:
            return process.wait(WATCH_EVERY)
        except subprocess.TimeoutExpired:
            if told is None and (got or watch(process.pid)):
                told = time.monotonic()
                if not got:
                    process.send_signal(signal.SIGTERM)
            elif told is not None and grace is not None and time.monotonic() > told + grace:
                os.killpg(process.pid, signal.SIGKILL)
                return process.wait()
