"""A validation set that is split off the training set, for early choices and searches: the test set is for the end."""

from typing import TypeVar, cast

import torch
from torch import Tensor

from ..errors import ConfigError
from .image_files import FileSet
from .in_memory import ImageSet

Split = TypeVar("Split", bound=ImageSet | FileSet)
SEED = 20_506  # of the split alone: runs of all seeds are chosen on the same images


def number_of_samples(count: int, share: float) -> int:
    """How many of `count` samples of a class are for validation."""
    return min(max(1, round(share * count)), count - 1)


def validation_samples(labels: Tensor, share: float) -> Tensor:
    """The samples (M,) of a share of each class, drawn at random, in ascending order; labels (N,).

    Of each class at least one sample, and not all, if it has two or more.
    """
    generator = torch.Generator().manual_seed(SEED)
    drawn = []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero()[:, 0]
        drawn.append(own[torch.randperm(len(own), generator=generator)[: number_of_samples(len(own), share)]])
    return torch.cat(drawn).sort().values


def split_off(train: Split, share: float) -> tuple[Split, Split]:
    """A training set without a share of its samples, and these; ConfigError if there would be none."""
    labels = train.labels.cpu()
    index = validation_samples(labels, share)
    if not len(index):
        raise ConfigError(f"DATASET.VALIDATION is {share}; every class has a single image: nothing can be split off")
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[index] = False
    return _only(train, rest.nonzero()[:, 0]), _only(train, index)


def _only(split: Split, index: Tensor) -> Split:
    labels = split.labels[index.to(split.labels.device)]
    if isinstance(split, ImageSet):
        return cast(Split, split._replace(images=split.images[index.to(split.images.device)], labels=labels))
    images = None if split.images is None else split.images[index.to(split.images.device)]
    paths = [split.paths[i] for i in index.tolist()]
    return cast(Split, split._replace(paths=paths, labels=labels, images=images))
