"""Losses over a batch that several processes share: their mean over the processes is what one process would compute."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ..data import Batch
from ..distributed import all_gather, world_size
from ..models.output import Output
from .term import Terms


class _WholeFeatures(Mapping[str, Any]):
    """Features of all processes' samples; each entry is gathered when a loss asks for it, and only then."""

    def __init__(self, own: Mapping[str, Any], total: int | None):
        self.own, self.total = own, total
        self._gathered: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._gathered:
            value = self.own[key]
            many = isinstance(value, list)
            self._gathered[key] = [all_gather(v, self.total) for v in value] if many else all_gather(value, self.total)
        return self._gathered[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)


def whole_output(output: Output, total: int | None) -> Output:
    """This process's output as that of all processes; the output itself where there is one process."""
    if world_size() == 1:
        return output
    return Output(all_gather(output.logits, total), _WholeFeatures(output.features, total))


def whole_batch(batch: Batch) -> Batch:
    """The batch with the targets and indices of all processes; images stay this process's own."""
    return replace(batch, target=all_gather(batch.target, batch.total), index=all_gather(batch.index, batch.total))


T = TypeVar("T", Output, Mapping[str, Output])


def over_processes(
    losses: Callable[[Output, T, Batch], Terms], student: Output, teacher: T, batch: Batch, *, couples_samples: bool
) -> Terms:
    """`losses(student, teacher, batch)`, such that the mean over the processes is what one process would compute.

    `teacher`: one path's output, or a mapping of several. A mean over samples is weighted by this process's share of
    them. A loss that couples samples sees the outputs, targets and indices of all processes.
    """
    if world_size() == 1:
        return losses(student, teacher, batch)
    if not couples_samples:
        return weighted_by_shard(losses(student, teacher, batch), batch)
    if isinstance(teacher, Output):
        whole = whole_output(teacher, batch.total)
    else:
        whole = {path: whole_output(output, batch.total) for path, output in teacher.items()}
    return losses(whole_output(student, batch.total), whole, whole_batch(batch))


def weighted_by_shard(terms: Terms, batch: Batch) -> Terms:
    """Means over this process's samples, weighted such that their mean over the processes is that over all samples."""
    if world_size() == 1:
        return terms
    factor = world_size() * len(batch.target) / batch.size
    return {name: term.times(factor) for name, term in terms.items()}
