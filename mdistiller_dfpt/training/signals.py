"""Signals are handled between two steps: SIGTERM and SIGINT save and stop, SIGUSR1 saves and continues."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

import torch

from ..distributed import all_reduce, world_size
from ..errors import UserError

_CODES: dict[int, int] = {signal.SIGTERM: 143, signal.SIGINT: 130}
# Processes agree on requests every so many steps, because agreeing costs a message
AGREE_EVERY = 8


class Stopped(UserError):
    """A run that was stopped on request, after a checkpoint."""

    def __init__(self, number: int, where: str):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}; continue with --resume")
        self.exit_code = _CODES[number]


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
            asked = all_reduce(torch.tensor([*(float(stop == n) for n in _CODES), float(save)])).tolist()
            stop = next((n for n, count in zip(_CODES, asked, strict=False) if count), 0)
            save = asked[-1] > 0
        return stop, save

    def poll_stop(self) -> int:
        """Number of a stop signal or 0, agreed on by all processes; called after an epoch and its checkpoint."""
        return self.poll(0)[0]

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Context that records signals; a second stop signal ends the process immediately. Restores the handlers."""
        # Python allows handlers in the main thread alone
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: object) -> None:
            if self.stop:
                sys.exit(_CODES[number])
            self.stop = number
            print(f"{signal.Signals(number).name}: stopping after the next step; send it again to stop immediately",
                  file=sys.stderr, flush=True)  # fmt: skip

        def save(number: int, frame: object) -> None:
            self.save = True

        # Handlers only record the request: the state in the middle of a step cannot be resumed
        before = {n: signal.signal(n, stop) for n in _CODES}
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, save)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
