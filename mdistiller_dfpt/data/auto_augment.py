"""Augmentation with which transformers are trained: timm's policies, and random erasing; on Pillow images.

Random erasing (Zhong et al., 2020, arXiv:1708.04896) as in timm's `pixel` mode: areas of 1/50 to 1/3 of the image, of
aspect ratios 0.3 to 10/3, filled with normal noise. Here the noise is that of the normalised image, cut to the range of
its pixels, and images are erased before they are mixed, in timm after it.
"""

import math
import random
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from ..errors import ConfigError
from .image_files import FileRecipe

AREA, RATIO, ATTEMPTS = (0.02, 1 / 3), (0.3, 1 / 0.3), 10


class TimmPolicy:
    """A policy by timm's name, `rand-m9-mstd0.5-inc1`, drawn from PyTorch's global generator."""

    def __init__(self, name: str, size: int, mean: tuple[float, ...]):
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

    def __call__(self, image: Image.Image) -> Image.Image:
        # timm draws from Python's and NumPy's generators, whose states are put back
        seed, before, arrays = int(torch.randint(2**31, ())), random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            return self.policy(image)
        except ValueError as e:
            if "bits" not in str(e):
                raise
            return Image.new("RGB", image.size)  # posterized to 0 bits, which newer versions of Pillow refuse
        finally:
            random.setstate(before)
            np.random.set_state(arrays)


class Erasing:
    """Replaces a rectangle of an image by noise, with a probability."""

    def __init__(self, probability: float, mean: tuple[float, ...], std: tuple[float, ...]):
        self.probability = probability
        self.mean, self.std = (255 * torch.tensor(values) for values in (mean, std))

    def __call__(self, image: Image.Image) -> Image.Image:
        if torch.rand(()).item() >= self.probability:
            return image
        for _ in range(ATTEMPTS):
            share, slant, down, across = torch.rand(4, dtype=torch.float64).tolist()
            area = image.width * image.height * (AREA[0] + share * (AREA[1] - AREA[0]))
            ratio = RATIO[0] * math.exp(slant * math.log(RATIO[1] / RATIO[0]))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < height < image.height and 0 < width < image.width:
                noise = torch.randn(height, width, 3) * self.std + self.mean
                patch = Image.fromarray(noise.clamp(0, 255).round().to(torch.uint8).numpy())
                erased = image.copy()
                erased.paste(patch, (int(across * (image.width - width)), int(down * (image.height - height))))
                return erased
        return image


def augmented(recipe: FileRecipe, policy: str | None, erasing: float) -> FileRecipe:
    """The recipe with a policy of timm and random erasing after its own transform of training images."""
    steps, words = [recipe.train], [recipe.words]
    if policy:
        steps.append(TimmPolicy(policy, recipe.size, recipe.mean))
        words.append(policy)
    if erasing > 0:
        steps.append(Erasing(erasing, recipe.mean, recipe.std))
        words.append(f"random erasing {erasing:g}")
    return recipe if len(steps) == 1 else recipe._replace(train=v2.Compose(steps), words=", ".join(words))
