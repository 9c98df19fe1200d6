"""mdistiller's code calls `.cuda()` unconditionally; on a CPU such a call returns what it is called on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

OWNERS: tuple[Any, ...] = (Tensor, nn.Module)


@contextmanager
def cuda_calls_ignored(ignored: bool = True) -> Iterator[None]:
    """Context in which `.cuda()` of tensors and modules returns them where they are; none if `ignored` is False."""
    if not ignored:
        yield
        return
    before = [owner.cuda for owner in OWNERS]
    ignore_cuda_calls()
    try:
        yield
    finally:
        for owner, cuda in zip(OWNERS, before, strict=True):
            owner.cuda = cuda


def ignore_cuda_calls() -> None:
    """The same for the rest of the process."""
    for owner in OWNERS:
        owner.cuda = _stay


def _stay(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self
