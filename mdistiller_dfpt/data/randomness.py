"""Randomness as a function of (seed, epoch, index), not a state: any step of a run can be repeated in isolation."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15  # the increment of SplitMix64
_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_ALL, _POSITIVE = 2**64 - 1, 2**63 - 1


def _mix(x: int) -> int:
    """SplitMix64's finaliser (Steele et al., OOPSLA 2014): every output bit depends on every input bit."""
    for shift, factor in _FACTORS:
        x = (x ^ (x >> shift)) * factor & _ALL
    return x ^ (x >> 31)


def _mix_each(x: Tensor) -> Tensor:
    """The same for int64 tensors, whose arithmetic shifts must be masked."""
    for shift, factor in _FACTORS:
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _signed(x: int) -> int:
    return x - 2**64 if x > _POSITIVE else x


def _key(seed: int, epoch: int, stream: int) -> int:
    key = _mix(seed * _GOLDEN + 1 & _ALL)
    for part in (epoch, stream):
        key = _mix((key ^ part) + _GOLDEN & _ALL)
    return key


def random_bits(index: Tensor, seed: int, epoch: int, stream: int = 0) -> Tensor:
    """63 random bits per sample, int64 >= 0 in the shape of `index`; equal arguments give equal bits on any device."""
    key = _signed(_key(seed, epoch, stream))
    return _mix_each((index.to(torch.int64) + 1) * _signed(_GOLDEN) ^ key) & _POSITIVE


def random_bits_of(index: int, seed: int, epoch: int, stream: int = 0) -> int:
    """`random_bits` of a single sample, without a tensor."""
    return _mix((index + 1) * _GOLDEN & _ALL ^ _key(seed, epoch, stream)) & _POSITIVE


@torch.compiler.disable
def draw_numbers(count: int, drawn: int, step: int, epoch: int, stream: int) -> list[int]:
    """`drawn` of the numbers 0 .. count - 1; equal arguments draw equal ones, in all processes and a resumed run."""
    return random_bits(torch.arange(count), step, epoch, stream).argsort()[:drawn].tolist()


def epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    """The order of the samples in an epoch, (size,) int64."""
    generator = torch.Generator().manual_seed(random_bits_of(epoch, seed, epoch, stream=1))
    return torch.randperm(size, generator=generator)


def seeded(index: int, seed: int, epoch: int, stream: int) -> contextlib.AbstractContextManager[None]:
    """Context in which PyTorch's global generator is a function of the arguments, for transforms that use it."""
    return seeded_by(random_bits_of(index, seed, epoch, stream))


@contextlib.contextmanager
def seeded_by(bits: int) -> Iterator[None]:
    """Context in which PyTorch's global generator starts from these bits; its state is put back."""
    # torch.random.fork_rng visits every device: half a millisecond, a seventh of the time to decode an image
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(bits)
    try:
        yield
    finally:
        generator.set_state(before)


MOST = 2**31  # numbers of a sample
BITS = 24  # of a uniform number: the precision of float32


class Numbers:
    """Random numbers for the samples of a batch: each sample has its own, whichever other samples the batch has.

    They are functions of (seed, epoch, index), on the device of `index` (B,); every call returns further ones.
    """

    def __init__(self, index: Tensor, seed: int, epoch: int, stream: int):
        self.index, self.seed, self.epoch, self.stream = index, seed, epoch, stream
        self.drawn = 0  # of each sample

    def bits(self, *shape: int) -> Tensor:
        """63 random bits for each element, (B, *shape) int64."""
        size = math.prod(shape)
        element = torch.arange(self.drawn, self.drawn + size, device=self.index.device)
        self.drawn += size
        counter = self.index.to(torch.int64)[:, None] * MOST + element
        return random_bits(counter, self.seed, self.epoch, self.stream).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32; (B, *shape)."""
        return (self.bits(*shape) >> 63 - BITS).float() * 2.0**-BITS

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32, by the Box-Muller transform; (B, *shape)."""
        radius, angle = self.uniform(2, *shape).unbind(1)
        return (-2 * (1 - radius).log()).sqrt() * (2 * math.pi * angle).cos()
