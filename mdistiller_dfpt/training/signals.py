"""Signals are handled between two steps or batches of an evaluation.

SIGTERM, SIGINT, SIGHUP, SIGXCPU and SIGUSR2 save and stop, SIGUSR1 saves and continues.
"""

import contextlib
import signal
from collections.abc import Iterator

import torch

from ..distributed import all_reduce, world_size
from ..errors import UserError
from ..handlers import STOP_SIGNALS, handled, say
from .failures import Failed, failed

# Processes agree on requests every so many steps, because agreeing costs a message
AGREE_EVERY = 8


class Stopped(UserError):
    """A run that was stopped on request, after a checkpoint; `how` it goes on."""

    def __init__(self, number: int, where: str, how: str = "continue with --resume"):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}; {how}")
        self.number, self.where = number, where
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
        return self._exchanged()[:2]

    def _exchanged(self, failed: bool = False) -> tuple[int, bool, bool]:
        """What `poll` returns, and whether one of the processes has `failed`."""
        stop, save = self.stop, self.save
        if save:
            self.save = False
        if world_size() > 1:
            # A signal that arrives during the exchange is kept for the next one
            asked = torch.tensor([*(float(stop == n) for n in STOP_SIGNALS), float(save), float(failed)])
            *stops, saves, failures = all_reduce(asked).tolist()
            stop = next((n for n, count in zip(STOP_SIGNALS, stops, strict=True) if count), 0)
            save, failed = saves > 0, failures > 0
        return stop, save, failed

    def poll_stop(self) -> int:
        """Number of a stop signal or 0, agreed on by all processes; called where the state is saved soon."""
        return self.poll(0)[0]

    def meet(self, error: Exception | None = None) -> None:
        """Between two batches of an evaluation: `Interrupt` at a stop, `Failed` if a process has an error."""
        stop, _, is_failed = self._exchanged(error is not None)
        if stop:
            raise Interrupt(stop)
        if is_failed:
            raise failed(error)

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
            try:
                yield
            except Stopped:
                self.stop = 0  # it is answered: the same trainer may go on
                raise


class Meetings:
    """The meetings of all processes in an evaluation: `Interrupt` at a stop, `Failed` where one has an error.

    All meet equally often: one that can read nothing of a batch does so at its next one.
    """

    def __init__(self, requests: Requests):
        self.requests, self.count = requests, 0

    def between(self, batch: int) -> None:
        """Called before the batch of this number, from 1."""
        due = batch // AGREE_EVERY if world_size() > 1 else self.count + 1
        while self.count < due:
            self.count += 1
            self.requests.meet()

    @contextlib.contextmanager
    def over(self, batches: int) -> Iterator[None]:
        """Context of an evaluation over so many batches; an error in it is known to all at their next meeting."""
        error: Exception | None = None
        try:
            yield
            self.between(batches)
        except (Interrupt, Failed):
            raise
        except Exception as e:
            error = e
        self.requests.meet(error)
