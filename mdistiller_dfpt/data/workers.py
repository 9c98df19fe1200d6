"""The processes that decode images: what they need of the machine, which signals they hear, and how they end."""

import atexit
import os
import resource
import shutil
import signal
import threading
import weakref
from pathlib import Path
from typing import Any

from ..distributed import STOP_SIGNALS
from ..errors import DataError

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108, through which PyTorch passes tensors
FILES = Path("/proc/self/fd")
PREFETCHED = 2  # batches of each worker that wait, as by PyTorch's default
FILES_OF_WORKER, FILES_BESIDE = 12, 10
MANY_FILES = 65536


def check_room(workers: int, batch: int) -> None:
    """DataError if this machine has too little for workers that pass on batches of so many bytes.

    Without it they would die or wait without a word. The limit of open files is raised as far as it may be.
    """
    room = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None
    needed = PREFETCHED * workers * batch
    if room is not None and room < needed:
        raise DataError(
            f"{SHARED_MEMORY} has {room / 2**20:.0f} MiB free, through which {workers} data-loading workers pass on"
            f" batches of {batch / 2**20:.1f} MiB, {PREFETCHED} each: make it larger (in a container: --shm-size), or"
            f" lower DATASET.NUM_WORKERS; 0 needs none"
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < MANY_FILES:
        soft = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    opened = len(os.listdir(FILES)) if FILES.is_dir() else 0
    files = opened + FILES_BESIDE + FILES_OF_WORKER * workers
    if soft != resource.RLIM_INFINITY and soft < files:
        raise DataError(
            f"this process may have {soft} files open, and needs about {files} with {workers} data-loading workers:"
            f" raise the limit (ulimit -n), or lower DATASET.NUM_WORKERS"
        )


RUNNING: "weakref.WeakSet[Any]" = weakref.WeakSet()
"""The iterators of loaders that have workers."""


@atexit.register
def end_workers() -> None:
    """End the workers of all loaders, before `multiprocessing` does by a signal, which leaves their temporary files."""
    for iterator in list(RUNNING):
        iterator._shutdown_workers()


def leave_signals_to_the_trainer(worker: int) -> None:
    """In a worker: a signal to the whole process group saves and stops the run, which still needs this worker.

    Only SIGTERM of the trainer itself ends a worker, as where one hangs, or is there still when the trainer ends.
    """
    for number in (*STOP_SIGNALS, signal.SIGUSR1):
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # else, as on macOS, PyTorch's own handler stays
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a handler would not know who sent it
        threading.Thread(target=_end_with_the_trainer, args=(os.getppid(),), daemon=True).start()


def _end_with_the_trainer(trainer: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
