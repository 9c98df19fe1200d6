"""A process ends with the one that started it, however that ends.

A launcher that is killed can pass on no signal, and what outlives it would train, or wait, where no one needs it.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

from .handlers import as_by_default

VARIABLE = "MDISTILLER_DFPT_PARENT"
"""Environment variable of a job: the number of the process that started it."""
OF_TORCHRUN = "TORCHELASTIC_RUN_ID"
LOOK_EVERY = 1.0  # seconds


def environment_of_job() -> dict[str, str]:
    """The environment of a job of this process."""
    return {**os.environ, VARIABLE: str(os.getpid())}


def stop_with_launcher() -> None:
    """SIGTERM to this process once its launcher, or torchrun, has ended; nothing where neither started it."""
    given = os.environ.pop(VARIABLE, None)
    if given is None and OF_TORCHRUN not in os.environ:
        return
    parent = os.getppid() if given is None else int(given)

    def wait() -> None:
        while os.getppid() == parent:  # the number of another process, once the parent has ended
            time.sleep(LOOK_EVERY)

    _stop_after(wait)


def stop_with_pool() -> None:
    """In a process of a pool, which has nothing to clean up: SIGTERM to it once the one that started it has ended."""
    as_by_default()
    parent = multiprocessing.parent_process()
    assert parent is not None, "it was started by multiprocessing"
    _stop_after(parent.join)


def _stop_after(wait: Callable[[], object]) -> None:
    def stop() -> None:
        wait()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
