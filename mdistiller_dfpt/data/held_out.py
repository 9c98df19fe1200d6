"""Samples of the training set that a method keeps out of training, to measure on them how the student generalises."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .batch import Batch
from .loader import Loader
from .randomness import epoch_order

OF_NO_EPOCH = -1_000_000_007
"""In place of an epoch's number, for the order whose first samples are held out: no pass and no epoch has it."""


def held_out_samples(count: int, share: float, seed: int) -> Tensor:
    """The samples to hold out of `count`: a random share of them, a function of the seed; at least 2, and not all."""
    size = min(max(round(share * count), 2), count - 1)
    return epoch_order(count, seed, OF_NO_EPOCH)[:size]


class HeldOut:
    """A batch of held-out samples for each step; all processes of a run get the same one, without augmentation.

    `loader`: of these samples alone; `steps`: of an epoch of training. Which batch belongs to a step is a function of
    its epoch and number, so a resumed run goes on with the same ones.
    """

    def __init__(self, loader: Loader, steps: int):
        self.loader, self.steps = loader, steps
        self._stream: Iterator[Batch] = iter(())
        self._next = -1
        self._last: tuple[int, Batch] | None = None

    def batch(self, of: Batch) -> Batch:
        """The batch of the step that trains on `of`, or on a micro-batch of it."""
        # A last, smaller batch is left out
        number = ((of.epoch - 1) * self.steps + of.step - 1) % max(1, self.loader.num_samples // self.loader.batch_size)
        if self._last is None or self._last[0] != number:
            # Consecutive steps read on, so that workers decode in advance
            if number != self._next:
                self._stream = self.loader.epoch(first=number)
            self._last, self._next = (number, next(self._stream)), number + 1
        return self._last[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_stream": iter(()), "_next": -1}  # a copy reads for itself


def hold_out(loader: Loader, share: float) -> tuple[Loader, HeldOut]:
    """The loader of a training set without a share of its samples, and these; indices and views stay what they were."""
    index = held_out_samples(loader.num_samples, share, loader.seed)
    kept = torch.ones(loader.num_samples, dtype=torch.bool)
    kept[index] = False
    rest = loader.only(kept)
    return rest, HeldOut(loader.as_test(index), len(rest))
