"""Signals are handled between two steps or batches of an evaluation.

SIGTERM, SIGINT, SIGHUP, SIGXCPU and SIGUSR2 save and stop, SIGUSR1 saves and continues.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator

import torch

from ..distributed import all_reduce, world_size
from ..errors import UserError
from ..handlers import STOP_SIGNALS, handled, say

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
        """Number of a stop signal or 0, agreed on by all processes; called where the state is saved soon."""
        return self.poll(0)[0]

    def between_batches(self) -> Callable[[int], None]:
        """What an evaluation calls with the number of each batch, and of one behind all: `Interrupt` at a stop.

        All processes agree equally often: one that can read nothing of a batch does so at its next one.
        """
        agreed = 0

        def meet(batch: int) -> None:
            nonlocal agreed
            due = batch // AGREE_EVERY if world_size() > 1 else agreed + 1
            while agreed < due:
                agreed += 1
                if stop := self.poll_stop():
                    raise Interrupt(stop)

        return meet

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Context that records signals. Restores the handlers.

        Stop signals after the first change nothing: schedulers and launchers send several, and a save must not be cut
        off.
        """

        def stop(number: int, frame: object) -> None:
            if not self.stop:
                self.stop = number
                say(f"{signal.Signals(number).name}: stopping after the next step; SIGKILL ends the run at once")

        def save(number: int, frame: object) -> None:
            self.save = True

        # Handlers only record the request: the state in the middle of a step cannot be resumed
        with handled(STOP_SIGNALS, stop), handled([signal.SIGUSR1], save):
            yield
