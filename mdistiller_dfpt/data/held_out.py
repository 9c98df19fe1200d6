"""Samples of the training set that a method keeps out of training, to measure on them how the student generalises."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .batch import Batch
from .loader import Loader
from .randomness import epoch_order

OF_NO_EPOCH = -1_000_000_007
"""In place of an epoch's number, for the order whose first samples are held out: no pass and no epoch has it."""

OF_STATISTICS = OF_NO_EPOCH - 1
"""The same for the order of the batches over which statistics are measured."""

NONE = range(-1, -1)  # no numbers of batches, and none follows them


def held_out_samples(count: int, share: float, seed: int) -> Tensor:
    """The samples to hold out of `count`: a random share of them, a function of the seed; at least 2, and not all."""
    size = min(max(round(share * count), 2), count - 1)
    return epoch_order(count, seed, OF_NO_EPOCH)[:size]


class HeldOut:
    """A batch of held-out samples for each step; all processes of a run get the same one, without augmentation.

    `loader`: of these samples alone; `index` (N,): where they are in the training set; `steps`: of an epoch of
    training. Which batch belongs to a step is a function of its epoch and number, so a resumed run goes on with the
    same ones.
    """

    def __init__(self, loader: Loader, index: Tensor, steps: int):
        self.loader, self.index, self.steps = loader, index, steps
        # A last, smaller batch is left out
        self.count = max(1, loader.num_samples // loader.batch_size)
        self._stream: Iterator[tuple[int, Batch]] = iter(())
        self._batch: Batch | None = None
        self._numbers = NONE  # for which `_batch` is: several if there are some of which no image can be read

    def batch(self, of: Batch) -> Batch:
        """The batch of the step that trains on `of`, or on a micro-batch of it."""
        number = (of.epoch - 1) * self.steps + of.step - 1
        if self._batch is None or number not in self._numbers:
            # Consecutive steps read on, so that workers decode in advance
            if number != self._numbers.stop:
                self._stream = self._from(number)
            last, self._batch = next(self._stream)
            self._numbers = range(number, last + 1)
        return self._batch

    def _from(self, number: int) -> Iterator[tuple[int, Batch]]:
        """The batches from a number on, over and over; those of which no image can be read are left out."""
        passed, first = divmod(number, self.count)
        for start in itertools.count(passed * self.count, self.count):
            last = None
            for batch in self.loader.epoch(first=first):
                if batch.step <= self.count:
                    last = start + batch.step - 1
                    yield last, batch
            if last is None and not first:
                raise DataError(f"none of the {self.loader.num_samples} held-out images can be read")
            first = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_stream": iter(()), "_numbers": NONE}  # a copy reads for itself


def hold_out(loader: Loader, share: float) -> tuple[Loader, HeldOut]:
    """The loader of a training set without a share of its samples, and these; indices and views stay what they were."""
    index = held_out_samples(loader.num_samples, share, loader.seed)
    kept = torch.ones(loader.num_samples, dtype=torch.bool)
    kept[index] = False
    rest = loader.only(kept)
    return rest, HeldOut(loader.as_test(index), index, len(rest))


def in_even_batches(loader: Loader) -> Loader:
    """The samples that a training set is trained on, prepared as for testing, in a shuffled order that never changes.

    Each process gets all of them. The batches are of equal size as far as possible, and of at most the loader's.
    """
    order = epoch_order(loader.num_samples, loader.seed, OF_STATISTICS)
    whole = loader.as_test(order if loader.kept is None else order[loader.kept[order]])
    whole.batch_size = -(-whole.num_samples // -(-whole.num_samples // loader.batch_size))
    return whole
