"""Augmentation with which transformers are trained: timm's policies, and random erasing; on Pillow images.

Random erasing (Zhong et al., 2020, arXiv:1708.04896) as in timm's `pixel` mode: areas of 1/50 to 1/3 of the image, of
aspect ratios 0.3 to 10/3, filled with normal noise. Here the noise is that of the normalised image, cut to the range of
its pixels, and images are erased before they are mixed, in timm after it.
"""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from ..errors import ConfigError
from .augmentation import PictureAugmentation

AREA, RATIO, ATTEMPTS = (0.02, 1 / 3), (0.3, 1 / 0.3), 10


class TimmPolicy(PictureAugmentation):
    """A policy by timm's name, `rand-m9-mstd0.5-inc1`."""

    packages = ("PIL", "timm")

    def __init__(self, name: str, size: int, mean: Sequence[float]):
        try:
            from timm.data import auto_augment
        except ModuleNotFoundError:
            raise ConfigError(f"DATASET.AUTO_AUGMENT {name} needs timm: pip install timm") from None
        fill = tuple(min(255, round(255 * m)) for m in mean)
        options = {"translate_const": int(0.45 * size), "img_mean": fill}
        try:
            make = auto_augment.rand_augment_transform if name.startswith("rand") else (
                auto_augment.augment_and_mix_transform if name.startswith("augmix")
                else auto_augment.auto_augment_transform
            )  # fmt: skip
            self.policy: Callable[[Image.Image], Image.Image] = make(name, options)
        except (AssertionError, ValueError, KeyError, IndexError) as e:
            raise ConfigError(f"DATASET.AUTO_AUGMENT is {name}; timm has no such policy ({e})") from None

    def augment_picture(self, picture: Image.Image) -> Image.Image:
        # timm draws from Python's and NumPy's generators, whose states are put back
        seed, before, arrays = int(torch.randint(2**31, ())), random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            return self.policy(picture)
        except ValueError as e:
            if "bits" not in str(e):
                raise
            return Image.new("RGB", picture.size)  # posterized to 0 bits, which newer versions of Pillow refuse
        finally:
            random.setstate(before)
            np.random.set_state(arrays)


class Erasing(PictureAugmentation):
    """Replaces a rectangle of an image by noise, with a probability."""

    def __init__(self, probability: float, mean: Sequence[float], std: Sequence[float]):
        self.probability = probability
        self.mean, self.std = (255 * torch.tensor(values) for values in (mean, std))

    def augment_picture(self, picture: Image.Image) -> Image.Image:
        if torch.rand(()).item() >= self.probability:
            return picture
        for _ in range(ATTEMPTS):
            share, slant, down, across = torch.rand(4, dtype=torch.float64).tolist()
            area = picture.width * picture.height * (AREA[0] + share * (AREA[1] - AREA[0]))
            ratio = RATIO[0] * math.exp(slant * math.log(RATIO[1] / RATIO[0]))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < height < picture.height and 0 < width < picture.width:
                noise = torch.randn(height, width, 3) * self.std + self.mean
                patch = Image.fromarray(noise.clamp(0, 255).round().to(torch.uint8).numpy())
                erased = picture.copy()
                erased.paste(patch, (int(across * (picture.width - width)), int(down * (picture.height - height))))
                return erased
        return picture
