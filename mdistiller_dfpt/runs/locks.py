"""Locks between processes, which the kernel releases when a process ends, however it ends."""

import contextlib
import fcntl
import functools
import os
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..distributed import on_first_process, rank
from ..errors import ConfigError
from ..escape import one_name
from ..regular_files import opened_to_change

LOCK = "run.lock"  # in the directory of a run

_OPEN: "weakref.WeakSet[IO[str]]" = weakref.WeakSet()


def _opened(path: Path) -> IO[str]:
    """A file to lock, which a fork closes: a worker outlives a killed run by seconds, and would hold the lock."""
    file = opened_to_change(path)
    _OPEN.add(file)
    return file


def _close_all() -> None:
    for file in list(_OPEN):
        file.close()


os.register_at_fork(after_in_child=_close_all)


@contextmanager
def one_at_a_time(base: Path) -> Iterator[None]:
    """Context that one job at a time is in, for runs whose directories are `base` and its repetitions.

    Two commands may need the same teacher at once: the second one waits, and finds what the first has trained. All
    processes of a job enter it.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_opened_beside(base, "lock")) if rank() == 0 else None
        _wait_for_lock(file, base)
        yield


def claim(base: Path) -> IO[str] | None:
    """The claim of a launcher to the runs whose directories are `base` and its repetitions, until it is closed.

    None if another launcher has it, or a job is in `one_at_a_time`, as one that has outlived its launcher. Of two
    launchers, the second one then has something else to begin.
    """
    claimed = _opened_beside(base, "launcher")
    if _try_lock(claimed, base):
        with _opened_beside(base, "lock") as job:
            if _try_lock(job, base):
                return claimed
    claimed.close()
    return None


def _opened_beside(base: Path, what: str) -> IO[str]:
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        return _opened(base.with_name(f".{base.name}.{what}"))
    except OSError as e:
        raise ConfigError(f"{base.parent}: cannot write there ({e.strerror})") from None


def wait_until_free(run: Path) -> None:
    """Return when no other job trains in this directory."""
    with contextlib.ExitStack() as stack:
        file = None
        if rank() == 0 and (run / LOCK).exists():
            file = stack.enter_context(_opened(run / LOCK))
        _wait_for_lock(file, run)


def _wait_for_lock(file: IO[str] | None, what: Path) -> None:
    """Lock a file, if there is one, on the first process; the others ask it every second, so that none times out."""
    is_said = False
    while not on_first_process(lambda: file is None or _try_lock(file, what)):
        if not is_said and rank() == 0:
            print(f"another process trains {what}: waiting until it ends", flush=True)
        is_said = True
        time.sleep(1)


def _try_lock(file: IO[str], what: Path) -> bool:
    """Take the lock; returns False if another process has it. Where the file system has no locks, that is said."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:  # as of some network file systems
        _say_without_locks(what, e.strerror)
    return True


@functools.cache  # once
def _say_without_locks(what: Path, why: str) -> None:
    print(f"warning: {what}: its file system has no locks ({why}); start no second process on the same run",
          file=sys.stderr)  # fmt: skip


class RunLock:
    """An flock on the directory of a run, or another one; the kernel releases it when the process ends."""

    def __init__(self, run: Path, name: str = LOCK, does: str = "is training"):
        self.path = run / name
        try:
            self._file = _opened(self.path)  # it stays open while the lock is held
        except OSError as e:
            raise ConfigError(f"{run}: cannot write there ({e.strerror})") from None
        if not _try_lock(self._file, run):
            owner = one_name(os.pread(self._file.fileno(), 100, 0).decode(errors="replace").strip())
            self._file.close()
            raise ConfigError(f"{run}: another process {does} here ({owner or 'unknown pid'})")
        with contextlib.suppress(OSError):  # for others to read; what else cannot be written on a full disk says so
            os.ftruncate(self._file.fileno(), 0)
            os.pwrite(self._file.fileno(), f"pid {os.getpid()}".encode(), 0)

    def release(self) -> None:
        """Release the lock, so that another process can train here."""
        self._file.close()
