"""Locks between processes, which the kernel releases when a process ends, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import ConfigError

LOCK = "run.lock"  # in the directory of a run


@contextmanager
def one_at_a_time(base: Path) -> Iterator[None]:
    """Context that one process at a time is in, for runs whose directories are `base` and its repetitions.

    Two commands may need the same teacher at once: the second one waits, and finds what the first has trained.
    """
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        file = open(base.with_name(f".{base.name}.lock"), "a", encoding="utf-8")  # noqa: SIM115  closed below
    except OSError as e:
        raise ConfigError(f"{base.parent}: cannot write there ({e.strerror})") from None
    with file:
        _wait_for_lock(file, base)
        yield


def wait_until_free(run: Path) -> None:
    """Return when no other process trains in this directory."""
    with contextlib.suppress(FileNotFoundError), open(run / LOCK, "a", encoding="utf-8") as file:
        _wait_for_lock(file, run)


def _wait_for_lock(file: IO[str], what: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print(f"another process trains {what}: waiting until it ends", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


class RunLock:
    """An flock on the run directory; the kernel releases it when the process ends."""

    def __init__(self, run: Path):
        self.path = run / LOCK
        try:
            self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115  stays open while the lock is held
        except OSError as e:
            raise ConfigError(f"{run}: cannot write there ({e.strerror})") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            owner = self._file.read().strip()
            self._file.close()
            raise ConfigError(f"{run}: another process is training here ({owner or 'unknown pid'})") from None
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()}")
        self._file.flush()

    def release(self) -> None:
        """Release the lock, so that another process can train here."""
        self._file.close()
