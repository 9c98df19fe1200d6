"""mdistiller's code calls `.cuda()` unconditionally; on a CPU such a call returns what it is called on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def cuda_calls_ignored(ignored: bool = True) -> Iterator[None]:
    """Context in which `.cuda()` of tensors and modules returns them where they are; none if `ignored` is False."""
    if not ignored:
        yield
        return
    owners: tuple[Any, ...] = (Tensor, nn.Module)
    before = [owner.cuda for owner in owners]
    for owner in owners:
        owner.cuda = _stay
    try:
        yield
    finally:
        for owner, cuda in zip(owners, before, strict=True):
            owner.cuda = cuda


def _stay(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self
