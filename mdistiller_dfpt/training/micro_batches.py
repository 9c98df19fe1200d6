"""A batch in parts that run one after another, the same parts for any number of processes."""

from torch import Tensor

from ..data import Batch
from ..distributed import world_size


def _part_size(total: int, accumulate: int) -> int:
    """Samples of all processes in one part: a multiple of their number, so that each has its share of every part."""
    world = world_size()
    return -(-total // (accumulate * world)) * world


def smallest_part(total: int, accumulate: int) -> int:
    """The fewest samples that a process gets in a part of a batch of `total`."""
    last = total % _part_size(total, accumulate) or _part_size(total, accumulate)
    return last // world_size()


def parts_of(batch: Batch, accumulate: int) -> list[Batch]:
    """The batch in at most `accumulate` parts, each with its own `total`; by default it is the only one."""
    total = len(batch.target) if batch.total is None else batch.total
    if accumulate == 1:
        return [batch._replace(total=total)]
    size = _part_size(total, accumulate)
    own = size // world_size()

    def cut(x: Tensor | None, i: int) -> Tensor | None:
        return None if x is None else x[i * own : (i + 1) * own]

    return [
        batch._replace(
            image=cut(batch.image, i), target=cut(batch.target, i), index=cut(batch.index, i),
            strong=cut(batch.strong, i), view=cut(batch.view, i), total=min(size, total - i * size),
        )
        for i in range(-(-total // size))
    ]  # fmt: skip
