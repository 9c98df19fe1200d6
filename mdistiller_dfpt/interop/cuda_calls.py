"""mdistiller's code calls `.cuda()` unconditionally; on a CPU such a call returns what it is called on.

Likewise `torch.load`, of tensors that were saved on a CUDA device, loads them to the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

OWNERS: tuple[Any, ...] = (Tensor, nn.Module)
_load = torch.load


@contextmanager
def cuda_calls_ignored(ignored: bool = True) -> Iterator[None]:
    """Context in which `.cuda()` of tensors and modules returns them where they are; none if `ignored` is False."""
    if not ignored:
        yield
        return
    before, load = [owner.cuda for owner in OWNERS], torch.load
    ignore_cuda_calls()
    try:
        yield
    finally:
        torch.load = load
        for owner, cuda in zip(OWNERS, before, strict=True):
            owner.cuda = cuda


def ignore_cuda_calls() -> None:
    """The same for the rest of the process."""
    torch.load = cast(Any, _load_here)
    for owner in OWNERS:
        owner.cuda = _stay


def _stay(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self


def _load_here(file: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
    return _load(file, "cpu" if map_location is None else map_location, *args, **kwargs)
