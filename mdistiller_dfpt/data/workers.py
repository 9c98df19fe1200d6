"""The processes that decode images: what they need, which signals they hear, how they end, and what is said of it."""

import atexit
import contextlib
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
import traceback
import weakref
from _thread import start_new_thread
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.data._utils.signal_handling import _remove_worker_pids, _set_SIGCHLD_handler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..errors import NO_THREAD, DataError
from ..handlers import STOP_SIGNALS

T = TypeVar("T")
SHARED = Path("/dev/shm")  # noqa: S108  where Linux has shared memory
PREFETCHED = 2  # batches of each worker that wait, as by PyTorch's default
TICK = 0.25  # seconds
LAST_SECONDS = 1.0  # for a worker that was told to end
TOO_MANY = "Too many open files"
NO_MORE = ("Resource temporarily unavailable", NO_THREAD)
"""What the system and Python say where a user may have no more processes and threads."""
_LEFT = re.compile(r"</(torch_\w+)>")
_PID = re.compile(r"\(pid (\d+)\)")
_RUNNING: "weakref.WeakSet[Any]" = weakref.WeakSet()
"""The iterators of loaders that have workers."""


def check_room(workers: int, batch: int) -> None:
    """DataError if there is too little shared memory for workers that pass on batches of so many bytes.

    Without it they would die or wait without a word.
    """
    room = shutil.disk_usage(SHARED).free if SHARED.is_dir() else None
    needed = PREFETCHED * workers * batch
    if room is not None and room < needed:
        raise DataError(
            f"{SHARED} has {room / 2**20:.0f} MiB free, through which {workers} data-loading workers pass on"
            f" batches of {batch / 2**20:.1f} MiB, {PREFETCHED} each: make it larger (in a container: --shm-size), or"
            f" lower DATASET.NUM_WORKERS; 0 needs none"
        )


def share(tensors: Iterable[Tensor | None]) -> str:
    """In a worker, move tensors to shared memory; returns why that failed, else nothing.

    A thread of the worker would do so later, and only print the reason: the trainer would wait for the images in vain.
    """
    if get_worker_info() is None:
        return ""
    try:
        for tensor in tensors:
            if tensor is not None:
                tensor.share_memory_()
    except RuntimeError as e:
        if name := _LEFT.search(str(e)):  # PyTorch leaves the file that it found no room for
            with contextlib.suppress(OSError):
                (SHARED / name[1]).unlink()
        return f"no shared memory: {str(e).splitlines()[0]}"
    return ""


def remedy(why: str, timeout: float) -> str:
    """What to do, beside using fewer workers, where images did not come from one."""
    if TOO_MANY in why:
        return "raise `ulimit -n`"
    if why in NO_MORE:
        return "raise `ulimit -u`, and `ulimit -v` if there is one"
    if "shared memory" in why:
        return f"enlarge {SHARED} (in Docker, by --shm-size)"
    return f"raise EXPERIMENT.TIMEOUT (now {timeout:g} s)"


def fault_of_worker(error: Exception) -> str | None:
    """Why images did not come from a worker, if that is what an error of a loader says."""
    lines = str(error).strip().splitlines() or [""]
    for lack in (TOO_MANY, *NO_MORE):
        if lack in lines[0] or lack in lines[-1]:  # said by the loader, or raised in the worker
            return lack
    is_gone = isinstance(error, ConnectionError | TimeoutError) or lines[0].startswith("DataLoader worker")
    return lines[0] if is_gone else None


class _Deaths:
    """What PyTorch does when a worker died: it raises an error, wherever the main thread is."""

    def __init__(self) -> None:
        self.is_awaited = False
        self.error: RuntimeError | None = None
        self.told: set[str] = set()  # the workers of loaders that failed, whose deaths are no news
        self.raise_if_any: Callable[[int, Any], Any] | None = None

    def hold_back(self) -> None:
        """From now on, raise it where images are awaited alone: elsewhere it would end a step or a save halfway."""
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self.noted and threading.current_thread() is threading.main_thread():
            self.raise_if_any = handler
            signal.signal(signal.SIGCHLD, self.noted)

    def noted(self, number: int, frame: Any) -> None:
        """The handler of SIGCHLD."""
        assert self.raise_if_any is not None
        if self.is_awaited and _PATIENCE.is_over():
            raise TimeoutError
        try:
            self.raise_if_any(number, frame)
        except RuntimeError as e:
            if self.is_awaited and self._is_news(e):
                raise
            self.error = e

    def tell(self) -> None:
        """Raise the error that was held back, if there is one."""
        error, self.error = self.error, None
        if error is not None and self._is_news(error):
            raise error

    def _is_news(self, error: RuntimeError) -> bool:
        pid = _PID.search(str(error))
        return pid is None or pid[1] not in self.told


class _Patience:
    """Kills workers that let the trainer wait too long.

    PyTorch's own limit does not hold where a worker is stopped while it passes a tensor on, and counts the time in
    which all of them were, as by Ctrl-Z or a scheduler.
    """

    def __init__(self) -> None:
        self.awaited: _Wait | None = None
        self.lock = threading.Lock()  # what is no longer awaited has no workers killed
        self.is_looking = False  # nor does a fork

    def begin(self) -> None:
        """Look at the time from now on."""
        if not self.is_looking:
            start_new_thread(self._look, ())  # `Thread.start` waits for a thread that may get no memory
            self.is_looking = True

    def is_over(self) -> bool:
        """Whether what is awaited did not come in time."""
        return self.awaited is not None and self.awaited.seconds < 0

    def _look(self) -> None:
        while True:
            time.sleep(TICK)
            with self.lock:
                if self.awaited is not None:
                    self.awaited.seconds -= TICK
                    if self.is_over():
                        _kill_workers()
                    if self.awaited.seconds < -LAST_SECONDS and self.awaited.is_in_main:
                        # It waits for something else, as the start of a thread, from which only a signal wakes it
                        signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGCHLD)

    def end(self) -> None:
        """Images came, or an error."""
        with self.lock:
            self.awaited = None


@dataclass
class _Wait:
    seconds: float  # that are left
    is_in_main: bool  # whether the main thread waits, which gets the signals


_DEATHS, _PATIENCE = _Deaths(), _Patience()


def watch_workers(iterator: Any) -> None:
    """End the workers of this iterator of a loader with the process, and hold back their faults until `awaited`."""
    _RUNNING.add(iterator)
    _DEATHS.told -= _pids(iterator)  # the system may give a number again
    _DEATHS.hold_back()


def awaited(images: Callable[[], T], seconds: float) -> T:
    """What a call returns that waits for workers, at most so long; the error of `fault_of_worker` if one is gone."""
    is_in_main = threading.current_thread() is threading.main_thread()
    if math.isfinite(seconds):
        _set_SIGCHLD_handler()  # PyTorch's, which it sets when workers were started
        _DEATHS.hold_back()
        _PATIENCE.begin()
    wait = _PATIENCE.awaited = _Wait(seconds, is_in_main)
    try:
        try:
            _DEATHS.is_awaited = True
            _DEATHS.tell()
            return images()
        finally:
            _DEATHS.is_awaited = False
    except (RuntimeError, OSError, EOFError) as e:
        _end_half_built(e)
        for iterator in list(_RUNNING):  # one that was killed may be reaped only later, while another loader is awaited
            _DEATHS.told |= _pids(iterator)
        if wait.seconds < 0:  # the workers were killed
            raise TimeoutError(f"no images for {seconds:g} seconds") from None
        if isinstance(e, EOFError):
            raise ConnectionError("it closed its connection") from None
        raise
    finally:
        _PATIENCE.end()


def _end_half_built(error: BaseException) -> None:
    """End the workers of an iterator whose construction failed, which cannot do so itself when it is deleted."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        iterator = frame.f_locals.get("self")
        if isinstance(iterator, _MultiProcessingDataLoaderIter) and frame.f_code.co_name == "__init__":
            _DEATHS.hold_back()
            iterator._shutdown = True
            with contextlib.suppress(ValueError):  # where PyTorch does not know them yet
                _remove_worker_pids(id(iterator))  # else it says of each later death that it is theirs
            for worker in getattr(iterator, "_workers", ()):
                worker.kill()


@atexit.register
def end_workers() -> None:
    """End the workers of all loaders, before `multiprocessing` does by a signal, which leaves their temporary files."""
    for iterator in list(_RUNNING):
        with contextlib.suppress(RuntimeError, OSError, MemoryError):  # by a thread, for which there may be no room
            iterator._shutdown_workers()
        for worker in iterator._workers:
            worker.join(LAST_SECONDS)
    _kill_workers()  # one that is stopped hears nothing else


def _forget() -> None:
    """In a forked process: these workers are of its parent, which awaits their images."""
    _RUNNING.clear()
    _DEATHS.told.clear()
    _DEATHS.is_awaited, _DEATHS.error = False, None
    _PATIENCE.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_forget)


def _pids(iterator: Any) -> set[str]:
    return {str(worker.pid) for worker in iterator._workers}


def _kill_workers() -> None:
    for iterator in list(_RUNNING):
        for worker in iterator._workers:
            worker.kill()


def leave_all_to_the_trainer(worker: int) -> None:
    """In a worker: a signal to the whole process group saves and stops the run, which still needs this worker.

    Only SIGTERM of the trainer itself ends a worker, as where one hangs, or is there still when the trainer ends.
    """
    # Threads of `multiprocessing` call it where another process is gone, which the trainer says in one line
    sys.excepthook = lambda *error: None
    for number in (*STOP_SIGNALS, signal.SIGUSR1):
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # else, as on macOS, PyTorch's own handler stays
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a handler would not know who sent it
        try:
            start_new_thread(_end_with_the_trainer, (os.getppid(), _temporary_folder()))
        except RuntimeError:  # the trainer is told so, and ends this worker
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            raise


def _end_with_the_trainer(trainer: int, inherited: str | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    if (own := _temporary_folder()) is not None and own != inherited:
        shutil.rmtree(own, ignore_errors=True)
    os._exit(0)


def _temporary_folder() -> str | None:
    """Where `multiprocessing` has sockets of this process, which it deletes when the interpreter ends; None if none."""
    return multiprocessing.current_process()._config.get("tempdir")  # type: ignore[attr-defined]
