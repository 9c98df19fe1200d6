"""Randomness as a function of (seed, epoch, index), not a state: any step of a run can be repeated on its own."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the increment of SplitMix64, as a signed number


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors (Steele et al., OOPSLA 2014): every bit depends on every bit."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def random_bits(index: Tensor, seed: int, epoch: int, stream: int = 0) -> Tensor:
    """63 random bits a sample, int64 >= 0 in the shape of `index`; equal arguments give equal bits on any device."""
    key = _mix(torch.tensor([seed], dtype=torch.int64) * _GOLDEN + 1)
    for part in (epoch, stream):
        key = _mix((key ^ part) + _GOLDEN)
    bits = _mix((index.to(torch.int64) + 1) * _GOLDEN ^ key.to(index.device))
    return bits & 0x7FFF_FFFF_FFFF_FFFF


def epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits its samples, (size,) int64."""
    generator = torch.Generator().manual_seed(int(random_bits(torch.tensor([epoch]), seed, epoch, stream=1)))
    return torch.randperm(size, generator=generator)


@contextlib.contextmanager
def seeded(index: int, seed: int, epoch: int, stream: int) -> Iterator[None]:
    """Inside, PyTorch's global generator is a function of these, for transforms that draw from it; then as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(random_bits(torch.tensor(index), seed, epoch, stream)))
        yield
