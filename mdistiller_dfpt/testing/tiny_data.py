"""A batch of noise, and a dataset of 8x8 images that a tiny network can learn."""

import torch

from ..data import Batch, Data
from ..data.batch import UNLABELLED
from ..data.content import content_of, images_of
from ..data.extra import OTHER_SEED, Pool
from ..data.in_memory import ImageSet, InMemoryLoader, Recipe
from .tiny_networks import CLASSES

IMAGE_SHAPE = (3, 8, 8)


def tiny_batch(size: int = 8, seed: int = 0, step: int = 1, epoch: int = 1) -> Batch:
    """Noise images, each with a strong view and an unlabelled image, and labels 0, 1, 2, ... in turn.

    Equal arguments give equal batches.
    """
    generator = torch.Generator().manual_seed(seed)
    image, strong, extra, strong_extra = (torch.randn(size, *IMAGE_SHAPE, generator=generator) for _ in range(4))
    index = torch.arange(size)
    unlabelled = Batch(extra, torch.full_like(index, UNLABELLED), index, epoch, step, strong_extra)
    return Batch(image, index % CLASSES, index, epoch, step, strong, extra=unlabelled)


def tiny_data(train: int = 48, test: int = 20, batch: int = 16, seed: int = 1, size: int = 8, extra: int = 0) -> Data:
    """Images whose brightness encodes the class, resized to `size`, and `extra` unlabelled ones of the same kind."""
    generator = torch.Generator().manual_seed(7)

    def images(count: int) -> ImageSet:
        labels = torch.arange(count) % CLASSES
        noise = torch.randint(0, 60, (count, 8, 8, 3), generator=generator)
        return ImageSet((noise + 48 * labels[:, None, None, None]).to(torch.uint8), labels, tuple("abcdefgh"[:CLASSES]))

    recipe = Recipe(pad=1, flip=True, mean=(0.4,) * 3, std=(0.3,) * 3)
    of_train, of_test = images(train), images(test)
    data = Data(
        InMemoryLoader(of_train, recipe, batch, train=True, seed=seed, size=size),
        InMemoryLoader(of_test, recipe, 7, train=False, size=size), CLASSES, content_of(of_train, of_test),
    )  # fmt: skip
    if not extra:
        return data
    others = images(extra)
    loader = InMemoryLoader(others, recipe, batch, train=True, seed=seed + OTHER_SEED, size=size, drop_last=True)
    return data._replace(extra=Pool(loader, images_of(others)))
