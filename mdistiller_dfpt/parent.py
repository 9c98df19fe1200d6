"""A process ends with the one that started it, however that ends.

A launcher that is killed can pass on no signal, and what outlives it would train, or wait, where no one needs it.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .handlers import as_by_default
from .regular_files import read_text

VARIABLE = "MDISTILLER_DFPT_LAUNCHER"
"""Environment variable of a job: the process that started it, perhaps through others such as a shell or srun."""
OF_TORCHRUN = "TORCHELASTIC_RUN_ID"
LOOK_EVERY = 1.0  # seconds
PROC = Path("/proc")


def environment_of_job() -> dict[str, str]:
    """The environment of a job of this process."""
    return {**os.environ, VARIABLE: f"{_machine()} {os.getpid()} {_begun(os.getpid())}"}


def stop_with_launcher() -> None:
    """SIGTERM to this process once its launcher, or torchrun, has ended; nothing where neither started it."""
    given = os.environ.pop(VARIABLE, None)
    if given is None and OF_TORCHRUN not in os.environ:
        return
    machine, pid, begun = given.split(" ") if given is not None else ("", "", "")
    parent = os.getppid()

    def is_there() -> bool:
        if machine and machine == _machine():
            return _begun(int(pid)) == begun
        # It is not seen from here, as from another node or container: what is, ends with it
        return os.getppid() == parent

    def wait() -> None:
        while is_there():
            time.sleep(LOOK_EVERY)

    _stop_after(wait)


def _machine() -> str:
    """This machine since it was started, and the processes that are seen here; empty where that is not known."""
    try:
        return f"{read_text(PROC / 'sys/kernel/random/boot_id').strip()}/{os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def _begun(pid: int) -> str:
    """When a process began, in ticks of this machine, as its number may be given again; empty once it has ended."""
    try:
        state, *others = read_text(PROC / str(pid) / "stat", encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else others[18]


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
