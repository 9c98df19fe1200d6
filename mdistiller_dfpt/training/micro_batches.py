"""Gradient accumulation: splits a batch into micro-batches, identically for any number of processes."""

from ..data import Batch
from ..distributed import world_size


def _size(total: int, accumulate: int) -> int:
    """Samples of a micro-batch over all processes: a multiple of their number, so each gets part of all."""
    world = world_size()
    return -(-total // (accumulate * world)) * world


def smallest_micro_batch(total: int, accumulate: int) -> int:
    """The smallest number of samples of a process in a micro-batch of a batch of `total`."""
    last = total % _size(total, accumulate) or _size(total, accumulate)
    return last // world_size()


def micro_batches(batch: Batch, accumulate: int) -> list[Batch]:
    """The batch as at most `accumulate` micro-batches, each with its own `total`; by default a single one."""
    total = batch.size
    if accumulate == 1:
        return [batch.replaced(total=total)]
    # Sample i is on process i mod world: consecutive rows of each process make up consecutive samples of the batch
    size = _size(total, accumulate)
    own = size // world_size()
    return [
        batch.rows(slice(i * own, (i + 1) * own), total=min(size, total - i * size)) for i in range(-(-total // size))
    ]
