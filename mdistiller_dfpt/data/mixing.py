"""Labels as distributions: label smoothing, mixup and CutMix of the samples of a batch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .batch import Batch
from .randomness import random_bits_of

STREAM = 6  # of random numbers


@dataclass(frozen=True)
class Mixing:
    """Mixes each sample of a process's batch with another; a function of (seed, epoch, step).

    `mixup` (Zhang et al., 2018, arXiv:1710.09412) and `cutmix` (Yun et al., 2019, arXiv:1905.04899) are the parameters
    alpha of the Beta distribution of the fraction, 0 for neither; with both, each batch takes one of them, as in timm.
    `smoothing` (Szegedy et al., 2016, arXiv:1512.00567) is the probability spread over all classes.
    """

    smoothing: float
    mixup: float
    cutmix: float
    classes: int
    seed: int

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches with mixed images and with labels as distributions; unchanged if there is nothing to do."""
        for batch in batches:
            yield self(batch) if self.smoothing or self.mixes else batch

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, batch: Batch) -> Batch:
        soft = self._smoothed(batch.target)
        if not self.mixes:
            return batch.replaced(soft=soft)
        generator = torch.Generator().manual_seed(random_bits_of(batch.step, self.seed, batch.epoch, STREAM))
        cuts = self.cutmix > 0 and (self.mixup == 0 or torch.rand((), generator=generator).item() < 0.5)
        kept = _beta(self.cutmix if cuts else self.mixup, generator)
        # The partner of a sample is the one at its place from the end
        if cuts:
            image, kept = _cut(batch.image, kept, generator)
        else:
            image = torch.lerp(batch.image.flip(0), batch.image, kept)
        return batch.replaced(image=image, soft=torch.lerp(soft.flip(0), soft, kept))

    def _smoothed(self, target: Tensor) -> Tensor:
        """Labels (B,) -> distributions (B, C)."""
        return F.one_hot(target, self.classes).float() * (1 - self.smoothing) + self.smoothing / self.classes


def _beta(alpha: float, generator: torch.Generator) -> float:
    """A sample of Beta(alpha, alpha), by the quotient of two Gamma variables."""
    a, b = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator).tolist()
    return a / (a + b)


def _cut(image: Tensor, kept: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """Images (B, 3, H, W) with a box from their partners, and the fraction of each that is its own.

    The centre of the box is uniform, and what lies outside the image is left out, so that the fraction differs.
    """
    height, width = image.shape[2:]
    side = (1 - kept) ** 0.5
    centre = torch.rand(2, generator=generator)
    (top, bottom), (left, right) = (
        (max(round(c * size - side * size / 2), 0), min(round(c * size + side * size / 2), size))
        for c, size in zip(centre.tolist(), (height, width), strict=True)
    )
    mixed = image.clone()
    mixed[:, :, top:bottom, left:right] = image.flip(0)[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
