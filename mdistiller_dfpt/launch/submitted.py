"""Jobs in the queue of a cluster, through submitit: SLURM may end one and begin it again, and it resumes.

A job is in the hands of the queue: it goes on if the command that submitted it is killed, and ends with the process
that submitit has on its node.
"""

import contextlib
import hashlib
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..regular_files import opened_to_change
from .processes import passing_signals_on, start

if TYPE_CHECKING:
    from submitit import Job
    from submitit.core.core import PicklingExecutor
    from submitit.helpers import DelayedSubmission

AGAIN = signal.SIGUSR2
"""What SLURM is to send some time before the time limit, for submitit; a run saves and stops."""
MOST_TIMEOUTS = 1000  # how often a job is begun again after its time limit, from where it was
LOOK_EVERY = 1.0  # seconds
ASK_EVERY = 5.0  # seconds between questions to the scheduler, while jobs are cancelled


@dataclass(frozen=True)
class Command:
    """What a node runs: a command, in this working directory, whose output is appended to a log."""

    words: tuple[str, ...]
    log: Path
    folder: Path

    def __call__(self) -> int:
        """Run it, pass on the signals of the scheduler, and return the exit code; be requeued at the time limit."""
        os.chdir(self.folder)
        with passing_signals_on() as running:
            code = running.wait(start(self.words, self.log))
        if code in (128 + AGAIN, -AGAIN):
            signal.raise_signal(AGAIN)  # submitit's handler has the job begun again, and ends this process
        return code

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit runs when the job begins again: the same, as training resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Queue:
    """A queue of submitit with up to `parallel` jobs of this process; `options`: KEY=VALUE, or KEY."""

    def __init__(self, folder: Path, parallel: int, options: Sequence[str]):
        try:
            import submitit
        except ModuleNotFoundError:
            raise ConfigError('--launcher submitit needs submitit: pip install "mdistiller_dfpt[submitit]"') from None
        logging.getLogger("submitit").setLevel(logging.ERROR)  # it prints to stdout
        self.errors = (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError)
        self.unfinished = submitit.core.utils.UncompletedJobError
        # submitit names files by the numbers of jobs, which may begin anew
        self.folder = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.parallel = parallel
        self.options = {
            key: value if has_value else True for key, has_value, value in (o.partition("=") for o in options)
        }
        minutes = str(self.options.pop("time", ""))
        if not re.fullmatch(r"[1-9]\d*", minutes):
            raise ConfigError(f"--slurm time is {minutes or 'missing'}: give --slurm time=MINUTES, the limit of a job,"
                              " after which it goes on in a further one")  # fmt: skip
        self.minutes = int(minutes)
        self.lock = threading.Lock()  # submitit's objects are used by one thread at a time
        self.is_cancelled, self.asked = False, 0.0

    def executor(self, name: str) -> "PicklingExecutor":
        """What submits a job of this name."""
        raise NotImplementedError

    def cancel(self, job: "Job[int]") -> None:
        """Have a job save and end, or not begin."""
        raise NotImplementedError

    @contextlib.contextmanager
    def started(self, command: Sequence[str], log: Path) -> Iterator["Submitted"]:
        """As of `Launcher`."""
        log = log.absolute()
        # The same for each launcher of a job, and for no other
        name = f"{log.stem}-{hashlib.sha256(os.fsencode(log)).hexdigest()[:8]}"
        with self.lock:
            try:
                job = self.executor(name).submit(Command(tuple(command), log, Path.cwd()))
            except self.errors as e:
                why = [line for line in str(e).splitlines() if line.strip()]
                raise ConfigError(f"sbatch: {why[-1].strip() if why else 'failed'}; see --slurm") from None
        yield Submitted(self, job, log)


class InSlurm(Queue):
    """The queue of SLURM; options are those of sbatch."""

    def __init__(self, folder: Path, parallel: int, options: Sequence[str]):
        super().__init__(folder, parallel, options)
        # Of two jobs with one name, as where a launcher was killed, the second begins once the first has ended
        self.options.setdefault("dependency", "singleton")
        self.executor("test")  # that it can be

    def executor(self, name: str) -> "PicklingExecutor":
        """As of `Queue`."""
        from submitit import SlurmExecutor

        try:
            executor = SlurmExecutor(self.folder, max_num_timeout=MOST_TIMEOUTS)
        except RuntimeError:
            raise ConfigError("--launcher submitit: no SLURM here, as srun is not found; submitit-local does without"
                              ) from None  # fmt: skip
        executor.update_parameters(time=self.minutes, job_name=name, additional_parameters=self.options)
        return executor

    def cancel(self, job: "Job[int]") -> None:
        """As of `Queue`."""
        job.cancel(check=False)


class InProcesses(Queue):
    """Processes of this machine under submitit, which stand for a cluster."""

    def __init__(self, folder: Path, parallel: int, options: Sequence[str]):
        super().__init__(folder, parallel, options)
        if self.options:
            raise ConfigError(f"--slurm {', '.join(self.options)} with --launcher submitit-local, which has time alone")

    def executor(self, name: str) -> "PicklingExecutor":
        """As of `Queue`."""
        from submitit import LocalExecutor

        executor = LocalExecutor(self.folder, max_num_timeout=MOST_TIMEOUTS)
        executor.update_parameters(timeout_min=self.minutes, signal_delay_s=90)
        return executor

    def cancel(self, job: "Job[int]") -> None:
        """As of `Queue`; submitit would kill the job after a second."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(job.job_id), signal.SIGTERM)


class Submitted:
    """A job in a queue."""

    def __init__(self, queue: Queue, job: "Job[int]", log: Path):
        self.queue, self.job, self.log = queue, job, log

    def wait(self) -> int:
        """As of `Handle`; 1 if its process ended otherwise than by the end of the command, and the log says how."""
        while not self._has_ended():
            time.sleep(LOOK_EVERY)
        try:
            return self.job.result()
        except self.queue.unfinished as e:
            with opened_to_change(self.log, append=True) as log:
                log.write(f"{e}\nerror: job {self.job.job_id} of submitit has no result; its files are in"
                          f" {self.queue.folder}\n")  # fmt: skip
            return 1

    def send_signal(self, sig: int, /) -> None:
        """As of `Handle`: a stop signal cancels it; it is asked to save by the scheduler itself."""
        if sig != signal.SIGUSR1:
            self.queue.is_cancelled = True
            self.queue.cancel(self.job)

    def _has_ended(self) -> bool:
        queue = self.queue
        with queue.lock:
            # submitit asks seldom, and a job that is cancelled before it begins leaves no other trace
            is_due = queue.is_cancelled and time.monotonic() > queue.asked + ASK_EVERY
            if is_due:  # of all jobs at once
                queue.asked = time.monotonic()
            return self.job.done(force_check=is_due)
