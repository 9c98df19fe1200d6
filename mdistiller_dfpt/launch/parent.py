"""A job ends with the process that started it, however that ends: it reads a pipe that only that process can write to.

A launcher that is killed can pass on no signal, and a job that outlives it would train where no one waits for it.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import TypedDict

VARIABLE = "MDISTILLER_DFPT_PARENT"
"""Environment variable of a job: the number of its end of the pipe."""


class Arguments(TypedDict):
    """Arguments of `subprocess.Popen`."""

    env: dict[str, str]
    pass_fds: Sequence[int]


@contextlib.contextmanager
def pipe_to_job() -> Iterator[Arguments]:
    """Context in which a job runs that was started with these arguments."""
    of_job, ours = os.pipe()
    try:
        yield {"env": {**os.environ, VARIABLE: str(of_job)}, "pass_fds": [of_job]}
    finally:
        os.close(of_job)
        os.close(ours)


def stop_with_parent() -> None:
    """In a job: SIGTERM to this process when its launcher has ended. Nothing happens in a process that is no job."""
    if (number := os.environ.pop(VARIABLE, None)) is None:
        return
    os.set_inheritable(int(number), False)

    def wait() -> None:
        os.read(int(number), 1)  # nothing is written: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
