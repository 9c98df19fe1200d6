"""Gradient accumulation: splits a batch into micro-batches, identically for any number of processes."""

from ..data import Batch
from ..data.loader import Loader
from ..distributed import world_size
from ..errors import ConfigError


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


def refuse_small(loader: Loader, accumulate: int, needed: int, label: str) -> None:
    """ConfigError if a step of the method or layer `label` has fewer than the `needed` samples."""

    def smallest_with(size: int) -> int:
        last = loader.num_per_epoch % size or size
        return min(smallest_micro_batch(size, accumulate), smallest_micro_batch(last, accumulate))

    size = loader.batch_size
    if (smallest := smallest_with(size)) < needed:
        many = f" in {world_size()} processes" if world_size() > 1 else ""
        other = next((n for n in range(size + 1, 2 * size + 64) if smallest_with(n) >= needed), None)
        raise ConfigError(
            f"SOLVER.BATCH_SIZE is {size}; it leaves a last batch of {loader.last_batch}, of which {smallest} in one"
            f" step{many}, and {label} needs at least {needed}"
            + ("" if other is None else f": try SOLVER.BATCH_SIZE {other}")
        )
