"""The laws of augmentations."""

import random
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.keywords import asked_for, keywords
from ..data.augmentation import AUGMENTATIONS, Augmentation, PictureAugmentation, checked
from ..data.preprocessing import pixels_of
from ..data.randomness import Numbers, seeded_by
from .laws import holds, obey
from .make import with_values

COUNT, EPOCHS = 8, 16  # images of a batch; how often they are augmented
IMAGE_SHAPE = (3, 20, 24)


class Subject:
    """An augmentation, and a batch of images of noise."""

    def __init__(self, cls: type[Augmentation], image_shape: tuple[int, int, int]):
        offered = {"image_shape": image_shape, "mean": (0.5,) * 3, "std": (0.25,) * 3}
        self.augmentation = cls(**{**asked_for(cls, offered), **keywords(cls.config)})
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (COUNT, *image_shape), dtype=torch.uint8, generator=generator)
        is_one_by_one = isinstance(self.augmentation, PictureAugmentation)
        self.source = "PyTorch's functions, such as torch.rand" if is_one_by_one else "`numbers`"

    def of(self, images: Tensor, index: Tensor, epoch: int = 1) -> Tensor:
        """Images as a training set has them at these places in an epoch."""
        return checked(self.augmentation, images.clone(), Numbers(index, 1, epoch, 0))

    def epochs(self, images: Tensor) -> Tensor:
        """Images in several epochs, (EPOCHS, B, 3, H, W)."""
        index = torch.arange(len(images))
        return torch.stack([self.of(images, index, epoch) for epoch in range(1, EPOCHS + 1)])


def it_returns_images_of_the_same_shape_and_type(subject: Subject) -> None:
    """(B, 3, H, W) uint8, with values from 0 to 255."""
    found = subject.epochs(subject.images)
    holds(found.max().item() > 1, "all values are 0 or 1: images have values from 0 to 255, also those it returns")


def the_same_numbers_give_the_same_images(subject: Subject) -> None:
    """Whatever it did before, and whatever state the global generators are in."""
    index, source = torch.arange(COUNT), subject.source
    for epoch in range(1, EPOCHS + 1):
        found = []
        for seed in (1, 2):
            with seeded_by(seed):
                states = random.getstate(), np.random.get_state()
                random.seed(seed)
                np.random.seed(seed)
                found.append(subject.of(subject.images, index, epoch))
                subject.of(subject.images.flip(0), index + COUNT * seed, epoch)
                random.setstate(states[0])
                np.random.set_state(states[1])
        holds(torch.equal(*found), f"other images for the same images and numbers: draw from {source} alone, and keep"
                                   " nothing from one call to the next")  # fmt: skip


def an_image_does_not_depend_on_the_others_of_its_batch(subject: Subject) -> None:
    """Batches are cut otherwise by several processes, and files come one by one."""
    index, rows = torch.arange(COUNT), torch.tensor([5, 2])
    for epoch in range(1, EPOCHS + 1):
        whole = subject.of(subject.images, index, epoch)
        some = subject.of(subject.images[rows], index[rows], epoch)
        holds(torch.equal(whole[rows], some), "an image is augmented otherwise beside other images: take its own row of"
                                              " `numbers`, and no statistics of the batch")  # fmt: skip


def images_differ_in_what_is_drawn_for_them(subject: Subject) -> None:
    """Equal images at different places are augmented differently, if they are in different epochs; others stay so."""
    equal = subject.epochs(subject.images[:1].expand(COUNT, -1, -1, -1))
    is_random = bool((equal != equal[:1]).any())
    holds(not is_random or bool((equal != equal[:, :1]).any()), "all images of a batch are augmented alike: draw a"
          " number for each")  # fmt: skip
    found = subject.epochs(subject.images)
    holds(bool((found != found[:, :1]).any()), "all images become the same one")


def files_are_augmented_one_by_one(subject: Subject) -> None:
    """A view of a file keeps its size and type, and is a function of PyTorch's generator."""
    for bits in range(EPOCHS):
        found = []
        for _ in range(2):
            with seeded_by(bits):
                found.append(pixels_of(subject.augmentation.on_file(subject.images[0])).permute(2, 0, 1))
        holds(found[0].shape == subject.images[0].shape, f"a view of a file becomes {tuple(found[0].shape)}")
        holds(torch.equal(*found), f"a view of a file is another one each time: draw from {subject.source} alone")


def workers_can_get_it(subject: Subject) -> None:
    """Beside a GPU, the processes that decode files get a pickled copy."""
    try:
        ForkingPickler.dumps(vars(subject.augmentation))
    except Exception as e:
        holds(False, f"it cannot be sent to the processes that decode files ({e}): keep no lambda, no generator and no"
                     " open file as an attribute")  # fmt: skip


AUGMENTATION_LAWS: tuple[Callable[[Subject], None], ...] = (
    it_returns_images_of_the_same_shape_and_type, the_same_numbers_give_the_same_images,
    an_image_does_not_depend_on_the_others_of_its_batch, images_differ_in_what_is_drawn_for_them,
    files_are_augmented_one_by_one, workers_can_get_it,
)  # fmt: skip


def check_augmentation(cls: type[Augmentation], image_shape: tuple[int, int, int] = IMAGE_SHAPE, **values: Any) -> None:
    """Check an augmentation against all laws, on images of noise; BrokenLaw with one line per broken law.

    `values` replace defaults of its config section, by the constructor's keywords; ConfigError if one is not allowed.
    """
    AUGMENTATIONS.check(cls)
    obey(AUGMENTATION_LAWS, Subject(with_values(cls, values), image_shape), cls.__name__)
