"""An error of one process between two batches is known to all: then all are behind the same step, and can save."""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import torch
from torch import distributed as dist

from ..distributed import of_all_processes, world_size
from ..errors import reason
from .parallel import PeerError

T = TypeVar("T")


class Failed(Exception):
    """An error between two batches, in all processes; `error` is to be raised once the state is saved."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error


def failed(error: Exception | None) -> Failed:
    """What all processes raise where one has an error: it its own, the others one that names it."""
    reasons = of_all_processes(None if error is None else reason(error))
    if error is None:
        number, why = next((n, why) for n, why in enumerate(reasons) if why is not None)
        error = PeerError(f"rank {number} has failed ({why}); continue with --resume auto")
    return Failed(error)


class _Draw(Generic[T]):
    """The next batch of this process, None behind the last; all processes exchange whether one has an error."""

    def __init__(self, batches: Iterator[T]):
        self.batch: T | None = None
        self.error: Exception | None = None
        try:
            self.batch = next(batches, None)
        except Exception as e:
            self.error = e
        self.errors = torch.tensor(float(self.error is not None))
        self.exchange = dist.all_reduce(self.errors, async_op=True) if world_size() > 1 else None

    def agreed(self) -> T | None:
        """The batch; `Failed` if a process has an error."""
        if self.exchange is not None:
            self.exchange.wait()
        if self.errors:
            raise failed(self.error)
        return self.batch


def known_to_all(batches: Iterable[T]) -> Iterator[T]:
    """The batches, as many in each process; `Failed` in all of them where one cannot be drawn.

    A process that has its batch would begin a step, and wait in it for the one that has none. Several agree on a batch
    during the step before it, for which it is drawn one ahead.
    """
    iterator = iter(batches)
    draw = _Draw(iterator)
    while (batch := draw.agreed()) is not None:
        if world_size() > 1:
            draw = _Draw(iterator)
            yield batch
        else:
            yield batch
            draw = _Draw(iterator)
