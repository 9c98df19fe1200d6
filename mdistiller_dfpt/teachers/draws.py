"""Random numbers of a teacher, as functions of the run's seed, the epoch and the sample: a resume repeats them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data import Batch
from ..data.randomness import random_bits

BITS = 24  # of a uniform number: the precision of float32


class Draws(nn.Module):
    """Draws per sample; equal for equal batches, whichever other samples a batch has and whichever process has it.

    The seed comes from PyTorch's generator when the teacher is built, and is part of the checkpoint.
    """

    seed: Tensor  # a buffer, added to the counter on its device: reading it on the host would wait for the device

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seed", torch.randint(2**62, ()))

    def _bits(self, batch: Batch, shape: Sequence[int], stream: int) -> Tensor:
        """63 random bits per element, (B, *shape) int64; different streams are independent."""
        size = math.prod(shape)
        element = torch.arange(size, device=batch.index.device)
        counter = batch.index[:, None] * size + element + self.seed.to(batch.index.device)
        return random_bits(counter, 0, batch.epoch, stream).view(-1, *shape)

    def uniform(self, batch: Batch, shape: Sequence[int], stream: int) -> Tensor:
        """Uniform in (0, 1), float32; (B, *shape)."""
        return _unit(self._bits(batch, shape, stream) >> 63 - BITS)

    def normal(self, batch: Batch, shape: Sequence[int], stream: int) -> Tensor:
        """Standard normal, float32, by the Box-Muller transform; (B, *shape)."""
        bits = self._bits(batch, shape, stream)
        radius = (-2 * _unit(bits >> 63 - BITS).log()).sqrt()
        return radius * (2 * math.pi * _unit(bits & 2**BITS - 1)).cos()


def _unit(bits: Tensor) -> Tensor:
    """Whole numbers of `BITS` bits -> the middles of as many intervals of (0, 1), exact in float32 below a half."""
    return ((bits.double() + 0.5) * 2.0**-BITS).float()
