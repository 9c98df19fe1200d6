"""Training jobs: begun where a launcher puts them, watched, each by one launcher at a time, interrupted by signals."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

from ..errors import UserError
from ..runs.locks import claim
from .launchers import Launcher, Local
from .processes import Process, Running, passing_signals_on

TRAIN = [sys.executable, "-m", "mdistiller_dfpt", "train"]
Watch: TypeAlias = Callable[[int], bool]
"""Called with the process id of a running job; True: the job is to save and end."""
WATCH_EVERY = 0.5  # seconds
LOOK_AGAIN = 2.0  # seconds, for jobs that another launcher has


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
    """One training job: the arguments of `train`, the log file for its output, the directory of its first run.

    `program`: the words of another program than `train`.
    """

    label: str
    words: tuple[str, ...]
    log: Path
    run: Path
    program: tuple[str, ...] = ()


class Ended(NamedTuple):
    """The jobs that failed, and those that are left, since another launcher trains them."""

    failed: list[Job]
    elsewhere: list[Job]


def never(job: Job) -> bool:
    """No job has become needless."""
    return False


def run_jobs(
    jobs: Sequence[Job], launcher: Launcher, say: Callable[[str], None], is_done: Callable[[Job], bool] = never, *,
    wait_for_others: bool = False,
) -> Ended:  # fmt: skip
    """Run all jobs that no other launcher trains, as many at a time as this one has room for.

    A job that another one trains is passed over, and looked at again while others run; with `wait_for_others`, until
    none is left. `is_done` tells of a job, before it begins, whether it has become needless meanwhile. A signal that
    stops this process is passed on to the jobs, which save and end; then `Interrupted` is raised. If it is killed, they
    save and end, too, unless they are in the queue of a cluster.
    """
    left, failed, faults = list(jobs), [], list[UserError]()
    begun: dict[Future[int], tuple[Job, IO[str]]] = {}
    is_waiting = False

    def ended(job: Job, how: str) -> None:
        say(f"[{len(jobs) - len(left) - len(begun)}/{len(jobs)}] {job.label}: {how}")

    with passing_signals_on() as running, ThreadPoolExecutor(launcher.parallel) as pool:
        while True:
            # Begin
            for job in tuple(left):
                if len(begun) == launcher.parallel or running.got or faults:
                    break
                if (claimed := claim(job.run)) is None:
                    continue
                left.remove(job)
                if is_done(job):
                    claimed.close()
                    ended(job, "trained meanwhile")
                    continue
                say(f"{job.label} ... (log: {job.log})")
                begun[pool.submit(_run, job, launcher, running)] = job, claimed
            if not begun:
                if not (left and wait_for_others) or running.got or faults:
                    break
                if not is_waiting:
                    say(f"{labels(left)}: another launcher trains it: waiting until it ends")
                is_waiting = True
                time.sleep(LOOK_AGAIN)
            # Say which have ended
            for future in wait(begun, LOOK_AGAIN if left else None, FIRST_COMPLETED).done:
                job, claimed = begun.pop(future)
                claimed.close()
                try:
                    code = future.result()
                except UserError as e:  # it could not be started, and no other can
                    faults.append(e)
                    continue
                if not running.got:
                    ended(job, "done" if code == 0 else f"failed with {code}, see {job.log}")
                if code:
                    failed.append(job)
        if running.got:  # also behind the last job
            raise Interrupted(running.got[0])
        if faults:
            raise faults[0]
    return Ended(failed, left)


def labels(jobs: Sequence[Job]) -> str:
    """The names of jobs, for a message."""
    return ", ".join(job.label for job in jobs)


Start: TypeAlias = Callable[[Job, Watch], int]
"""Runs one watched job and returns its exit code, negative if a signal ended it."""


@contextlib.contextmanager
def watched_jobs(launcher: Local, grace: float | None = None) -> Iterator[Start]:
    """Context that yields a `Start` for any thread; it raises `Interrupted` as `run_jobs` does, and so does the end.

    A job that was told to end is killed after `grace` seconds, with the processes of its group; None: it is never.
    """
    with passing_signals_on() as running:

        def start(job: Job, watch: Watch) -> int:
            code = _run(job, launcher, running, watch, grace)
            if running.got:
                raise Interrupted(running.got[0])
            return code

        yield start
        if running.got:
            raise Interrupted(running.got[0])


def _run(
    job: Job, launcher: Launcher, running: Running, watch: Watch | None = None, grace: float | None = None
) -> int:  # fmt: skip
    if running.got:  # a job that ended for it has made room for this one
        return 128 + running.got[0]
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with launcher.started([*(job.program or TRAIN), *job.words], job.log) as handle:
        if watch is None:
            return running.wait(handle)
        assert isinstance(handle, subprocess.Popen), "jobs that are watched are processes of this machine"
        with running.told(handle):
            return _watched(handle, watch, running.got, grace)


def _watched(process: Process, watch: Watch, got: Sequence[int], grace: float | None) -> int:
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
