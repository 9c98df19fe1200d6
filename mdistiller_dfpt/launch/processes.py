"""Commands in processes of their own, to which this one passes its signals on: each of them gets each signal once."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..handlers import STOP_SIGNALS, handled
from ..parent import environment_of_job
from ..regular_files import opened_to_change

Process: TypeAlias = "subprocess.Popen[bytes]"


class Handle(Protocol):
    """A command that was started, here or elsewhere; a `Process` is one."""

    def wait(self) -> int:
        """Its exit code, once it has ended; negative if a signal ended it."""

    def send_signal(self, sig: int, /) -> None:
        """Pass on a signal; nothing if it has ended."""


def start(command: Sequence[str], log: Path, **variables: str) -> Process:
    """Start a command that appends to this log and ends with this process; `variables`: more of its environment.

    It is in a session of its own, so that a terminal sends no signal to it.
    """
    # A request to save would end a command that does not hear it yet: it waits until `handlers.end_at_once` is through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        with opened_to_change(log, append=True) as file:
            return subprocess.Popen(
                command, stdout=file, stderr=file, start_new_session=True, env={**environment_of_job(), **variables}
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Running(set[Handle]):
    """The commands that run now, and the stop signals that came."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[int] = []

    def wait(self, handle: Handle) -> int:
        """Wait for a command, to which signals are passed on until it has ended; returns its exit code."""
        with self.told(handle):
            return handle.wait()

    @contextlib.contextmanager
    def told(self, handle: Handle) -> Iterator[None]:
        """Context in which signals go to this command, and one that came before it."""
        self.add(handle)
        if self.got:  # since it was asked for
            handle.send_signal(self.got[0])
        try:
            yield
        finally:
            self.discard(handle)


@contextlib.contextmanager
def passing_signals_on() -> Iterator[Running]:
    """Context in which signals go to the commands in the set that it yields: stop signals, and SIGUSR1, to save."""
    running = Running()

    def save(number: int, frame: Any) -> None:
        for handle in tuple(running):
            handle.send_signal(number)

    def stop(number: int, frame: Any) -> None:
        running.got.append(number)
        save(number, frame)

    with handled(STOP_SIGNALS, stop), handled([signal.SIGUSR1], save):
        yield running
