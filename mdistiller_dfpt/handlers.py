"""Signal handlers of a process, and Ctrl-C where nothing is trained: a command ends in one line, whatever it was about.

Python raises an exception wherever the main thread is, which some code takes for another one, or drops.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Handler = Callable[[int, Any], object]
"""Called with the number of a signal and the frame that it came in."""


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Context in which signals call this handler; in another thread than the main one, where none can be set, without.

    SIGHUP stays ignored where it is, as under nohup.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        n: signal.signal(n, handler) for n in numbers if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)  # None: set by a program in C


def _interrupts_handled(handler: Handler) -> contextlib.AbstractContextManager[None]:
    """The same for SIGINT alone, unless a program handles it itself, or a shell started this one in the background."""
    return handled([signal.SIGINT] if _is_pythons() else [], handler)


def _is_pythons() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def say(line: str) -> None:
    """Print a line from a handler, which streams do not allow; where the terminal was closed, nothing."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _end(number: int, frame: object) -> None:
    say("interrupted")
    os._exit(128 + number)


def interrupts_at_once() -> contextlib.AbstractContextManager[None]:
    """Context in which an interrupt ends the process without an exception: modules are imported, nothing has begun."""
    return _interrupts_handled(_end)


def interrupts_at_once_at_exit() -> None:
    """The same from when the interpreter ends on: all is done."""
    atexit.unregister(_for_good)
    atexit.register(_for_good)  # what is registered last is called first


def _for_good() -> None:
    if _is_pythons():
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def noted_interrupts() -> Iterator[Callable[[], bool]]:
    """Context that yields a function: whether an interrupt came, and so whether another error is what became of it.

    One that would be dropped, as in a finaliser, ends the process.
    """
    came: list[int] = []
    before = sys.unraisablehook

    def note(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    def drop(dropped: Any) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            return before(dropped)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        _end(signal.SIGINT, None)

    with _interrupts_handled(note):
        sys.unraisablehook = drop
        try:
            yield lambda: bool(came)
        finally:
            sys.unraisablehook = before


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Context in which processes are started: they hear no interrupt, which a terminal sends to all.

    This process hears one afterwards, and ends them.
    """
    came: list[int] = []
    with handled([signal.SIGINT], lambda number, frame: came.append(number)):  # another thread may get it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if came:
        signal.raise_signal(signal.SIGINT)
