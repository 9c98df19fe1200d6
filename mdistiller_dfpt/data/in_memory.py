"""Datasets that fit in memory: one uint8 tensor on the device; whole batches are cropped, flipped and normalised."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..environment import packages_of
from .augment import strong_views
from .augmentation import Augmentations
from .batch import Batch, Shard
from .loader import Loader, hashes_of
from .preprocessing import Preprocessing
from .randomness import random_bits


class Recipe(NamedTuple):
    """The published augmentation of a dataset: zero padding for the random crop, flip, and per-channel mean and std."""

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


def draw_views(index: Tensor, seed: int, epoch: int, pad: int, flip: bool, *, strong: bool = False) -> Views:
    """The view of each sample in this epoch: offsets dy, dx in 0..2*pad, and whether it is flipped; each (B,).

    `strong`: those of the strongly augmented view, which are drawn independently.
    """
    bits = random_bits(index, seed, epoch, stream=6 if strong else 2)
    positions = 2 * pad + 1
    dy, dx = bits % positions, (bits >> 20) % positions
    mirrored = ((bits >> 40) & 1).bool() if flip else torch.zeros_like(bits, dtype=torch.bool)
    return dy, dx, mirrored


def crop_flip(padded: Tensor, index: Tensor, views: Views, size: tuple[int, int]) -> Tensor:
    """Views of padded images (N, H', W', 3) -> (B, H, W, 3): crop and flip in a single gather."""
    dy, dx, mirrored = views
    height, width = (torch.arange(s, device=padded.device) for s in size)
    rows = dy[:, None] + height
    columns = dx[:, None] + torch.where(mirrored[:, None], width.flip(0), width)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]


class InMemoryLoader(Loader):
    """Batches of an in-memory dataset, resized to `size` after the augmentation if it is given.

    `more`: what augments training images after their crop and flip; their views are then not finitely many.
    """

    def __init__(
        self, images: ImageSet, recipe: Recipe, batch_size: int, *, train: bool, seed: int = 0,
        device: torch.device | str = "cpu", channels_last: bool = False, size: int | None = None,
        drop_last: bool = False, more: Augmentations | None = None,
    ):  # fmt: skip
        super().__init__(
            images.labels, batch_size, train=train, seed=seed, device=device, channels_last=channels_last,
            mean=recipe.mean, std=recipe.std, drop_last=drop_last,
        )  # fmt: skip
        self.recipe, self.more = recipe, (train and more) or Augmentations()
        words = [f"crop with padding {recipe.pad}", *["flip"] * recipe.flip, *self.more.words]
        self.augmentation = ", ".join(words)
        self.stored_size = (images.images.shape[1], images.images.shape[2])
        self.size = self.stored_size if size is None else (size, size)
        if self.size != self.stored_size:
            self.augmentation += f", resized to {size}"
        pad = recipe.pad if train else 0
        self.padded = F.pad(images.images, (0, 0, pad, pad, pad, pad)).to(device)

    def epoch(self, epoch: int = 1, first: int = 0, *, strong: bool = False) -> Iterator[Batch]:
        views = self._draw(epoch)
        for shard in self.shards(self.order(epoch).to(self.device), epoch, first):
            yield self._batch(shard, views, strong)

    def as_test(self, index: Tensor) -> "InMemoryLoader":
        index, other = index.to(self.device), copy.copy(self)
        other.train, other.sharded, other.kept, other.num_left_out = False, False, None, 0
        other.labels = self.labels[index]
        other.padded = self._stored(index)
        return other

    def _stored(self, index: Tensor | int | slice) -> Tensor:
        """The images at `index` without padding; ([B,] H, W, 3) uint8."""
        pad, (height, width) = self.recipe.pad if self.train else 0, self.stored_size
        return self.padded[index, pad : pad + height, pad : pad + width]

    @property
    def packages(self) -> set[str]:
        return packages_of(self.more.parts)

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self._stored(index).cpu().numpy())

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.stored_size, None, *self.normalisation, self.size)

    def contents(self, index: Tensor | None = None) -> list[str]:
        return hashes_of(self._stored(slice(None) if index is None else index.to(self.device)).contiguous())

    def normalised(self, image: Tensor) -> Tensor:
        """As every loader's, at the size of this one."""
        image = super().normalised(image)
        if self.size == self.stored_size:
            return image
        return F.interpolate(image, self.size, mode="bilinear", antialias=True)

    def _draw(self, epoch: int) -> Views | None:
        """All views of an epoch, computed in advance, so that no step copies to the device or synchronises with it."""
        if not self.train:
            return None
        everything = torch.arange(self.num_samples, device=self.device)
        return draw_views(everything, self.seed, epoch, self.recipe.pad, self.recipe.flip)

    def _batch(self, shard: Shard, drawn: Views | None, strong: bool) -> Batch:
        """The samples of a shard, in the views of its epoch."""
        index, views = shard.index, None
        if drawn is not None:
            views = drawn[0][index], drawn[1][index], drawn[2][index]
        image = self.normalised(self._augmented(self._cropped(index, views), index, shard.epoch))
        second = self._strong(index, shard.epoch) if strong else None
        view = None if views is None or self.more else self._number(views)
        return Batch(image, self.labels[index], index, shard.epoch, shard.step, second, shard.total, view)

    def _strong(self, index: Tensor, epoch: int) -> Tensor:
        """The strongly augmented views of the samples at `index`, with a crop and flip of their own."""
        recipe = self.recipe
        views = draw_views(index, self.seed, epoch, recipe.pad, recipe.flip, strong=True) if self.train else None
        images = self._augmented(self._cropped(index, views), index, epoch, strong=True)
        return self.normalised(strong_views(images, index, self.seed, epoch))

    def _augmented(self, images: Tensor, index: Tensor, epoch: int, *, strong: bool = False) -> Tensor:
        """Cropped images (B, H, W, 3) uint8 as they are trained on."""
        return self.more(images, index, self.seed, epoch, strong=strong) if self.train and self.more else images

    def images_in(self, index: Tensor, view: Tensor) -> Tensor:
        """The given samples (B,) in the given views (B,); (B, 3, H, W) float."""
        positions = 2 * self.recipe.pad + 1
        place = view // 2
        return self.normalised(self._cropped(index, (place // positions, place % positions, view % 2 == 1)))

    @property
    def num_views(self) -> int:
        """The number of views per image."""
        return 2 * (2 * self.recipe.pad + 1) ** 2

    def _number(self, views: Views) -> Tensor:
        dy, dx, mirrored = views
        return (dy * (2 * self.recipe.pad + 1) + dx) * 2 + mirrored

    def _cropped(self, index: Tensor, views: Views | None) -> Tensor:
        """The samples at `index`, cropped and flipped if there are views; (B, H, W, 3) uint8."""
        return self.padded[index] if views is None else crop_flip(self.padded, index, views, self.stored_size)
