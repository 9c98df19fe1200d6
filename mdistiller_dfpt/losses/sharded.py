"""Losses over a batch sharded across processes: their mean over processes equals the loss of a single process."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from ..data import Batch
from ..distributed import all_gather, world_size
from ..models.output import LazyFeatures, Output
from .term import Terms


def whole_output(output: Output, total: int | None) -> Output:
    """The outputs of all processes, gathered; with a single process, the output itself."""
    if world_size() == 1:
        return output
    return Output(all_gather(output.logits, total), LazyFeatures(output.features, lambda x: all_gather(x, total)))


OF_LABELS = ("target", "index", "soft")
"""The fields of a batch that every process gets whole."""


def whole_batch(batch: Batch) -> Batch:
    """The batch with the labels and indices of all processes; images remain those of this process."""
    gathered = {name: all_gather(batch.given[name], batch.total) for name in OF_LABELS if name in batch.given}
    return batch.replaced(**gathered)


T = TypeVar("T", Output, Mapping[str, Output])


def over_processes(
    losses: Callable[[Output, T, Batch], Terms], student: Output, teacher: T, batch: Batch, *, couples_samples: bool
) -> Terms:
    """`losses(student, teacher, batch)`, scaled so that its mean over processes equals the result of a single process.

    `teacher`: the output of one path, or a mapping of several. A mean over samples is weighted by the size of this
    process's shard. A loss that couples samples gets the outputs, targets and indices of all processes.
    """
    if world_size() == 1:
        return losses(student, teacher, batch)
    # A mean over samples: each process needs only its own
    if not couples_samples:
        return weighted_by_shard(losses(student, teacher, batch), batch)
    # Otherwise every process computes the loss of the full batch; features are gathered only where they are read
    if isinstance(teacher, Output):
        whole = whole_output(teacher, batch.total)
    else:
        whole = {path: whole_output(output, batch.total) for path, output in teacher.items()}
    return losses(whole_output(student, batch.total), whole, whole_batch(batch))


def weighted_by_shard(terms: Terms, batch: Batch) -> Terms:
    """Weight means over this process's samples so that their mean over processes is the mean over all samples."""
    if world_size() == 1:
        return terms
    factor = world_size() * len(batch.target) / batch.size
    return {name: term.times(factor) for name, term in terms.items()}
