"""The registry of augmentations: what changes training images after their crop and flip, in memory and in files."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.conditions import When
from ..config.limits import Limit
from ..config.nodes import NodeRegistry
from ..errors import PluginError
from .preprocessing import picture_of, pixels_of
from .randomness import Numbers, seeded_by

STREAM, STREAM_STRONG = 10, 11  # of random numbers; of those of strongly augmented views


class Augmentation:
    """Base of all augmentations: changes training images by random numbers of each, and has no state.

    The constructor gets the keys of its section, and what it names of image_shape (3, H, W), mean and std, those of the
    images that it changes.
    """

    config: ClassVar[CN] = CN()  # the config section; its keys are the constructor's keywords
    limits: ClassVar[Mapping[str, Limit]] = {}  # the allowed values of the section's keys
    when: ClassVar[Mapping[str, When]] = {}  # the conditions, on the section, under which its keys have an effect

    def augment(self, images: Tensor, numbers: Numbers) -> Tensor:
        """Images (B, 3, H, W) uint8 -> the same shape and type, each a function of itself and of its own numbers.

        `numbers.uniform(4)` are four numbers in [0, 1) for each image, (B, 4), and `numbers.normal(3, H, W)` as many
        normal ones as it has values. Image files come one by one (B = 1), in workers; images in memory as a batch, on
        the device.
        """
        raise NotImplementedError

    def on_file(self, view: Image.Image | Tensor) -> Image.Image | Tensor:
        """One view of a file, in a worker, where PyTorch's generator is a function of seed, epoch and sample."""
        numbers = Numbers(torch.zeros(1, dtype=torch.int64), int(torch.randint(2**62, ())), 0, STREAM)
        return checked(self, pixels_of(view).permute(2, 0, 1)[None].contiguous(), numbers)[0]


class PictureAugmentation(Augmentation):
    """Base of augmentations of one picture at a time, as torchvision's transforms are.

    They draw from PyTorch's global generator, which is set for each picture by seed, epoch and sample. Images in memory
    go through it one by one, on the CPU, which takes longer than `Augmentation.augment` of a batch. `packages`: whose
    code it calls, for their versions in the results.
    """

    packages: ClassVar[tuple[str, ...]] = ("PIL",)

    def augment_picture(self, picture: Image.Image) -> Image.Image:
        """An RGB picture of Pillow -> one of the same size."""
        raise NotImplementedError

    def augment(self, images: Tensor, numbers: Numbers) -> Tensor:
        views = []
        pictures = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        for pixels, bits in zip(pictures, numbers.bits().tolist(), strict=True):
            with seeded_by(bits):
                views.append(np.asarray(self._checked(Image.fromarray(pixels))))
        return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).to(images.device)

    def on_file(self, view: Image.Image | Tensor) -> Image.Image | Tensor:
        return self._checked(picture_of(view))

    def _checked(self, picture: Image.Image) -> Image.Image:
        """The augmented picture, as RGB; PluginError if it is none, or of another size."""
        found: Any = self.augment_picture(picture)
        if not isinstance(found, Image.Image) or found.size != picture.size:
            what = f"a picture of {found.size}" if isinstance(found, Image.Image) else type(found).__name__
            raise PluginError(type(self), f"`augment_picture` returned {what} for a picture of {picture.size} (width,"
                                          " height); it must return a picture of Pillow of the same size")  # fmt: skip
        return found if found.mode == "RGB" else found.convert("RGB")


AUGMENTATIONS: NodeRegistry[type[Augmentation]] = NodeRegistry(
    "augmentation", "DATASET.AUGMENT", Augmentation, node_of=str.upper
)
"""Maps a name of DATASET.AUGMENT to a subclass of Augmentation; its config section is the name in capitals."""


class Augmentations:
    """The augmentations of a run in their order, with a description of each; false if there are none."""

    def __init__(self, parts: Sequence[Augmentation] = (), words: Sequence[str] = ()):
        self.parts, self.words = tuple(parts), tuple(words)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __call__(self, images: Tensor, index: Tensor, seed: int, epoch: int, *, strong: bool = False) -> Tensor:
        """Images (B, H, W, 3) uint8 -> the same shape, each a function of (seed, epoch, index); of files, one view."""
        numbers = Numbers(index, seed, epoch, STREAM_STRONG if strong else STREAM)
        changed = images.permute(0, 3, 1, 2).contiguous()
        for part in self.parts:
            changed = checked(part, changed, numbers)
        return changed.permute(0, 2, 3, 1)

    def steps(self) -> list[Callable[[Any], Any]]:
        """Transforms of a view of a file, for workers."""
        return [part.on_file for part in self.parts]


def checked(augmentation: Augmentation, images: Tensor, numbers: Numbers) -> Tensor:
    """Augmented images (B, 3, H, W); PluginError if they have another shape or type."""
    found: Any = augmentation.augment(images, numbers)
    if not isinstance(found, Tensor) or found.shape != images.shape or found.dtype != torch.uint8:
        what = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise PluginError(type(augmentation), f"`augment` returned {what} for images {tuple(images.shape)} torch.uint8;"
                                              " it must return the same shape and type: round and clamp to 0 .. 255,"
                                              " then .to(torch.uint8)")  # fmt: skip
    return found


def try_on_noise(augmentation: Augmentation, image_shape: tuple[int, int, int], device: torch.device | str) -> None:
    """Augment two images of noise in memory and one of a file; PluginError if what comes out is no image."""
    images = torch.randint(256, (2, *image_shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with seeded_by(0):  # what it draws changes no initial weight
        checked(augmentation, images.to(device), Numbers(torch.arange(2, device=device), 0, 1, STREAM))
        augmentation.on_file(images[0])
