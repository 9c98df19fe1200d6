"""The strongly augmented view of a sample, as in FixMatch (Sohn et al., 2020, arXiv:2001.07685).

RandAugment (Cubuk et al., 2020, arXiv:1909.13719) with random magnitudes, then Cutout, on Pillow images. The
operations, their ranges and Cutout's are those of Jin-Ying/Multi-Level-Logit-Distillation 5ee473f,
mdistiller/dataset/cifar100.py:129-290.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

from .augmentation import AUGMENTATIONS, PictureAugmentation
from .randomness import seeded

CUTOUT_COLOR = (125, 123, 114)  # about the mean colour of photographs
CUTOUT_SHARE = 0.5  # of the width, at most


class Operation(NamedTuple):
    """A change of an image by a magnitude, which is uniform in [low, high]."""

    apply: Callable[[Image.Image, float], Image.Image]
    low: float
    high: float


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """The image whose pixel (x, y) is the given one's at (a x + b y + c, d x + e y + f); black outside."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


OPERATIONS = (
    Operation(lambda image, _: ImageOps.autocontrast(image), 0, 1),
    Operation(lambda image, v: ImageEnhance.Brightness(image).enhance(v), 0.05, 0.95),
    Operation(lambda image, v: ImageEnhance.Color(image).enhance(v), 0.05, 0.95),
    Operation(lambda image, v: ImageEnhance.Contrast(image).enhance(v), 0.05, 0.95),
    Operation(lambda image, _: ImageOps.equalize(image), 0, 1),
    Operation(lambda image, _: image, 0, 1),
    Operation(lambda image, v: ImageOps.posterize(image, int(v)), 4, 8),
    Operation(lambda image, v: image.rotate(v), -30, 30),
    Operation(lambda image, v: ImageEnhance.Sharpness(image).enhance(v), 0.05, 0.95),
    Operation(lambda image, v: _affine(image, 1, v, 0, 0, 1, 0), -0.3, 0.3),  # shear
    Operation(lambda image, v: _affine(image, 1, 0, 0, v, 1, 0), -0.3, 0.3),
    Operation(lambda image, v: ImageOps.solarize(image, math.ceil(v)), 0, 256),
    Operation(lambda image, v: _affine(image, 1, 0, v * image.width, 0, 1, 0), -0.3, 0.3),  # translation
    Operation(lambda image, v: _affine(image, 1, 0, 0, 0, 1, v * image.height), -0.3, 0.3),
)


def cutout(image: Image.Image, share: float, x: float, y: float) -> Image.Image:
    """The image with a filled square of `share` times its width around (x, y), both in pixels, cut at the border."""
    if share <= 0:
        return image
    side = share * image.width
    left, top = int(max(0, x - side / 2)), int(max(0, y - side / 2))
    image = image.copy()
    right, bottom = min(image.width, left + side), min(image.height, top + side)
    ImageDraw.Draw(image).rectangle((left, top, right, bottom), CUTOUT_COLOR)
    return image


def strong_view(image: Image.Image) -> Image.Image:
    """Two random operations of random magnitude and a random Cutout, drawn from PyTorch's global generator."""
    chosen = torch.randint(len(OPERATIONS), (2,)).tolist()
    first, second, share, x, y = torch.rand(5, dtype=torch.float64).tolist()
    for which, magnitude in zip(chosen, (first, second), strict=True):
        operation = OPERATIONS[which]
        image = operation.apply(image, operation.low + (operation.high - operation.low) * magnitude)
    return cutout(image, CUTOUT_SHARE * share, x * image.width, y * image.height)


@AUGMENTATIONS.register("fixmatch")
class FixMatch(PictureAugmentation):
    """The strongly augmented view in place of the plain one."""

    def augment_picture(self, picture: Image.Image) -> Image.Image:
        return strong_view(picture)


def strong_views(images: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
    """`strong_view` of each image (B, H, W, 3) uint8, a function of (seed, epoch, index), on the images' device."""
    views = []
    for pixels, i in zip(images.cpu().numpy(), index.tolist(), strict=True):
        with seeded(i, seed, epoch, stream=5):
            views.append(np.asarray(strong_view(Image.fromarray(pixels))))
    return torch.from_numpy(np.stack(views)).to(images.device)
