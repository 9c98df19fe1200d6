"""Signal handlers of a process, and stop signals where nothing is trained: a command ends in one line, and cleans up.

Of Ctrl-C, Python makes an exception wherever the main thread is, which some code takes for another one, or drops; any
other stop signal would end the process with its temporary files left.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR2)
"""On each of them a run saves and stops; its workers leave them to it, and what starts runs passes them on."""
SEVERAL = 1.0  # seconds within which launchers, schedulers and terminals send several to end one command
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


def _is_free(number: int) -> bool:
    """Whether no program handles this signal itself, and no shell ignores it, as for a job in the background."""
    return signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, _end)


def say(line: str) -> None:
    """Print a line from a handler, which streams do not allow; where the terminal was closed, nothing."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _end(number: int, frame: object) -> None:
    say("interrupted")
    os._exit(128 + number)


_codes: list[int] = []


def leave_with(code: int) -> None:
    """Have the process end with this code once all that ends with the interpreter was called, as memory has ended.

    What libraries in C do behind that fails without memory, and was seen to end the process by SIGSEGV.
    """
    _codes.append(code)


def _leave() -> None:
    if not _codes:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(_codes[-1])


def end_at_once() -> None:
    """From now on a stop signal ends the process without an exception, where a command does not hear it.

    That is while modules are imported, when nothing has begun, and while what ends with the interpreter is called. A
    request to save, SIGUSR1, ends nothing where there is nothing to save.
    """
    atexit.register(_leave)  # first, to be called last
    free = list(filter(_is_free, [*STOP_SIGNALS, signal.SIGUSR1]))
    for number in free:
        # Not SIG_IGN, which programs inherit
        signal.signal(number, (lambda number, frame: None) if number == signal.SIGUSR1 else _end)
        # Last of all, an interpreter undoes its handlers, and then needs a while: all is done, and has its exit code
        atexit.register(signal.signal, number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])  # its launcher blocked it, until here


def as_by_default() -> None:
    """From now on a stop signal ends this process as it does any other: it was forked, and has nothing to clean up."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


class _Interrupt(KeyboardInterrupt):
    """Of KeyboardInterrupt itself, raised in an `exec` of text, as of dataclasses, Python ends as by SIGINT though it
    is caught."""


@contextlib.contextmanager
def noted_interrupts() -> Iterator[Callable[[], int]]:
    """Context in which stop signals interrupt what is done; yields a function: the number of the first, or 0.

    With one, another error is what became of it. One that would be dropped, as in a finaliser, ends the process.
    """
    came: list[int] = []
    until = 0.0
    before = sys.unraisablehook

    def note(number: int, frame: object) -> None:
        nonlocal until
        if came and time.monotonic() < until:  # it would interrupt the cleaning up
            return
        came.append(number)
        until = time.monotonic() + SEVERAL
        raise _Interrupt

    def drop(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            return before(dropped)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        _end(came[0] if came else signal.SIGINT, None)

    with handled(list(filter(_is_free, STOP_SIGNALS)), note):
        sys.unraisablehook = drop
        try:
            yield lambda: came[0] if came else 0
        finally:
            sys.unraisablehook = before


@contextlib.contextmanager
def signals_later(numbers: Iterable[int] = STOP_SIGNALS) -> Iterator[None]:
    """Context behind which the first of these signals is heard that came in it: an exception would end the process.

    PyTorch's exporters are C++ that calls Python, and some of it may raise nothing.
    """
    came: list[int] = []
    with handled(numbers, lambda number, frame: came.append(number)):
        yield
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Context in which processes are started: they hear no interrupt, which a terminal sends to all.

    This process hears it, or another stop signal, afterwards, and ends them: a process whose start was cut off would
    read nothing from its parent, and say so.
    """
    with signals_later():  # another thread may get an interrupt
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
