"""Signals are handled between two steps or batches of an evaluation.

SIGTERM, SIGINT, SIGHUP and SIGXCPU save and stop, SIGUSR1 saves and continues.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch

from ..distributed import STOP_SIGNALS, all_reduce, world_size
from ..errors import UserError

# Processes agree on requests every so many steps, because agreeing costs a message
AGREE_EVERY = 8


class Stopped(UserError):
    """A run that was stopped on request, after a checkpoint."""

    def __init__(self, number: int, where: str, option: str = "--resume"):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}; continue with {option}")
        self.exit_code = 128 + number  # as of a process that the signal ends


class Interrupt(Exception):
    """Raised within an evaluation to leave it."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class Requests:
    """Requests by signals since they were last polled."""

    def __init__(self) -> None:
        self.stop = 0  # the signal number
        self.save = False

    def poll(self, step: int) -> tuple[int, bool]:
        """(number of a stop signal or 0, whether to save), agreed on by all processes; reported once per signal."""
        if world_size() > 1 and step % AGREE_EVERY:
            return 0, False
        stop, save = self.stop, self.save
        if save:
            self.save = False
        if world_size() > 1:
            # A signal that arrives during the exchange is kept for the next one
            asked = all_reduce(torch.tensor([*(float(stop == n) for n in STOP_SIGNALS), float(save)])).tolist()
            stop = next((n for n, count in zip(STOP_SIGNALS, asked, strict=False) if count), 0)
            save = asked[-1] > 0
        return stop, save

    def poll_stop(self) -> int:
        """Number of a stop signal or 0, agreed on by all processes; called after an epoch and its checkpoint."""
        return self.poll(0)[0]

    def interrupt(self) -> None:
        """Raise `Interrupt` if a stop is requested; one of several processes must not leave an evaluation alone."""
        if self.stop and world_size() == 1:
            raise Interrupt(self.stop)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Context that records signals. Restores the handlers.

        Stop signals after the first change nothing: schedulers and launchers send several, and a save must not be cut
        off. SIGHUP stays ignored where it is, as under nohup.
        """
        # Python allows handlers in the main thread alone
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: object) -> None:
            if not self.stop:
                self.stop = number
                name = signal.Signals(number).name
                os.write(2, f"{name}: stopping after the next step; SIGKILL ends the run at once\n".encode())

        def save(number: int, frame: object) -> None:
            self.save = True

        # Handlers only record the request: the state in the middle of a step cannot be resumed
        before: dict[int, Any] = {
            n: signal.signal(n, stop)
            for n in STOP_SIGNALS
            if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN
        }
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, save)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def nothing_to_save() -> Iterator[None]:
    """Context in which SIGUSR1 is ignored: a request to save must not end what has not begun to train, or has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)  # unlike SIG_IGN, not inherited by programs
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
