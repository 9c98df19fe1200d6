"""Unlabelled images beside the training set: each step takes a batch of them as well, for methods that use such."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..distributed import world_size
from ..errors import ConfigError, DataError
from .batch import UNLABELLED, Batch
from .class_folders import images_in, no_images, read_images, say_unread
from .content import Images, images_of
from .image_files import FileSet
from .in_memory import ImageSet
from .loader import Loader

OTHER_SEED = 2_000_000_011
"""Added to the seed of the training set, so that equal positions have other views."""


class Pool:
    """An endless sequence of batches of unlabelled images, all of the same size: step t of a run takes number t.

    The images are passed over again and again, each time in another order and in other views. `loader` has full
    batches only.
    """

    def __init__(self, loader: Loader, content: Images | None = None):
        self.loader, self.content = loader, content

    @property
    def images(self) -> int:
        """How many there are."""
        return self.loader.num_samples

    @classmethod
    def of(cls, images: ImageSet | FileSet, loader: Loader) -> "Pool":
        """The pool of these images; ConfigError if a batch is larger than all, or smaller than the processes."""
        count = len(images.labels)
        if not len(loader):
            raise ConfigError(f"DATASET.EXTRA.BATCH_SIZE is {loader.batch_size}; there are {count} unlabelled images:"
                              " use at most that many")  # fmt: skip
        if loader.batch_size < world_size():
            raise ConfigError(f"DATASET.EXTRA.BATCH_SIZE is {loader.batch_size}; {world_size()} processes share it:"
                              " use at least one image for each")  # fmt: skip
        return cls(loader, images_of(images))

    def batches(self, first: int = 0, *, strong: bool = False) -> Iterator[Batch]:
        """The batches from number `first` on, counted from 0, without an end."""
        passed, number = divmod(first, len(self.loader))
        while True:
            batch = None
            for batch in self.loader.epoch(passed + 1, number, strong=strong):
                yield batch.replaced(target=torch.full_like(batch.target, UNLABELLED))
            if batch is None and not number:
                raise DataError(f"none of the {self.images} unlabelled images can be read")
            passed, number = passed + 1, 0

    def beside(self, batches: Iterator[Batch], before: int, first: int, *, strong: bool = False) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on, each with one of unlabelled images.

        `before`: steps of the epochs before. A batch is left out if no file of it can be read. Whichever are, a step
        has the unlabelled batch of its number, or the next one that can be read: also in a resumed run.
        """
        others = self.batches(before + first, strong=strong)
        extra, number = None, -1
        for batch in batches:
            while extra is None or number < before + batch.step - 1:
                extra = next(others)
                number = (extra.epoch - 1) * len(self.loader) + extra.step - 1
            yield batch.replaced(extra=extra)


def files_below(root: Path) -> FileSet:
    """All image files below a folder; DataError if there are none."""
    if not root.is_dir():
        raise DataError(f"DATASET.EXTRA.ROOT is {root}; there is no such folder")
    paths, others = images_in(root)
    if not paths:
        raise DataError(no_images(root, others, "add some, or set DATASET.EXTRA.ROOT to a folder that has some"))
    say_unread(root, others)
    return FileSet(paths, torch.full((len(paths),), UNLABELLED), ())


def matching(images: ImageSet | FileSet, train: ImageSet | FileSet, name: str, *, resize: bool) -> ImageSet | FileSet:
    """The images in the form of the training set: in files, or in memory and of the same size.

    DataError if one is of another size in memory, unless it may be resized; ConfigError if images in memory are to go
    with a training set in files.
    """
    if isinstance(train, FileSet):
        if isinstance(images, ImageSet):
            raise ConfigError(f"DATASET.EXTRA.TYPE is {name}, with images in memory; those of the training set are in"
                              " files: write the unlabelled ones to files, for the type images")  # fmt: skip
        return images
    height, width = train.images.shape[1:3]
    fit = partial(ImageOps.fit, size=(width, height), method=Image.Resampling.BILINEAR)
    if isinstance(images, FileSet):
        try:
            pixels = read_images(images.paths, (height, width), fit if resize else None)
        except DataError as e:
            hint = "" if resize or "expected" not in str(e) else ": set DATASET.EXTRA.RESIZE True"
            raise DataError(f"{e}{hint}") from None
        return ImageSet(torch.from_numpy(pixels), images.labels, images.classes)
    found = tuple(images.images.shape[1:3])
    if found == (height, width):
        return images
    if not resize:
        raise DataError(f"DATASET.EXTRA.TYPE is {name}, with images of {found[1]}x{found[0]}; those of the training set"
                        f" are {width}x{height}: set DATASET.EXTRA.RESIZE True")  # fmt: skip
    pixels = np.stack([np.asarray(fit(Image.fromarray(image))) for image in images.images.numpy()])
    return images._replace(images=torch.from_numpy(pixels))
