"""Data sets that fit in memory: one uint8 tensor on the device; crop, flip and normalise run on the whole batch."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .batch import Batch
from .randomness import epoch_order, random_bits
from .strong import strong_views


class Recipe(NamedTuple):
    """A data set's published augmentation: zero padding before the random crop, flip, and per-channel mean and std."""

    pad: int
    flip: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ImageSet(NamedTuple):
    """images (N, H, W, 3) uint8, labels (N,) int64, class names in label order."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


Views = tuple[Tensor, Tensor, Tensor]


def draw_views(index: Tensor, seed: int, epoch: int, pad: int, flip: bool) -> Views:
    """The view of each sample in this epoch: offsets dy, dx in 0..2*pad, and whether it is mirrored; each (B,)."""
    bits = random_bits(index, seed, epoch, stream=2)
    positions = 2 * pad + 1
    dy, dx = bits % positions, (bits >> 20) % positions
    mirrored = ((bits >> 40) & 1).bool() if flip else torch.zeros_like(bits, dtype=torch.bool)
    return dy, dx, mirrored


def crop_flip(padded: Tensor, index: Tensor, views: Views, size: tuple[int, int]) -> Tensor:
    """Views of padded images (N, H', W', 3) -> (B, H, W, 3), one gather for crop and mirror together."""
    dy, dx, mirrored = views
    height, width = (torch.arange(s, device=padded.device) for s in size)
    rows = dy[:, None] + height
    columns = dx[:, None] + torch.where(mirrored[:, None], width.flip(0), width)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]


class ResidentLoader:
    """Batches of a data set in memory. `epoch(e)` gives the batches of epoch e, the same ones whenever it is asked."""

    def __init__(
        self, images: ImageSet, recipe: Recipe, batch_size: int, *, train: bool, seed: int = 0,
        device: torch.device | str = "cpu", channels_last: bool = False,
    ):  # fmt: skip
        self.recipe, self.batch_size, self.train, self.seed = recipe, batch_size, train, seed
        self.channels_last = channels_last
        self.strong_view = False  # whether batches carry a strongly augmented view too
        self.size = (images.images.shape[1], images.images.shape[2])
        pad = recipe.pad if train else 0
        self.padded = F.pad(images.images, (0, 0, pad, pad, pad, pad)).to(device)
        self.labels = images.labels.to(device)
        # (image / 255 - mean) / std as one multiply and add
        std = torch.tensor(recipe.std, device=device)
        self.scale = 1 / (255 * std)
        self.shift = -torch.tensor(recipe.mean, device=device) / std

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    def epoch(self, epoch: int = 1, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on; shuffled and augmented where this is a training set."""
        everything = torch.arange(self.num_samples, device=self.labels.device)
        order, views = everything, None
        if self.train:
            order = epoch_order(self.num_samples, self.seed, epoch).to(everything.device)
            # All of the epoch's views at once: no step copies anything to the device or waits for it
            views = draw_views(everything, self.seed, epoch, self.recipe.pad, self.recipe.flip)
        for number in range(first, len(self)):
            index = order[number * self.batch_size : (number + 1) * self.batch_size]
            image = self._images(index, views)
            strong = None
            if self.strong_view:
                strong = self._normalised(strong_views(image, index, self.seed, epoch))
            yield Batch(self._normalised(image), self.labels[index], index, epoch, number + 1, strong)

    def _images(self, index: Tensor, views: Views | None) -> Tensor:
        """The samples at `index`, cropped and mirrored where there are views; (B, H, W, 3) uint8."""
        if views is None:
            return self.padded[index]
        return crop_flip(self.padded, index, tuple(v[index] for v in views), self.size)

    def _normalised(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) float."""
        image = (image * self.scale + self.shift).permute(0, 3, 1, 2)
        return image.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)
