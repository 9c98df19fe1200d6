"""The strongly augmented view of a sample: RandAugment (Cubuk et al., 2020, arXiv:1909.13719) by torchvision."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from .randomness import seeded

_RAND_AUGMENT = v2.RandAugment(num_ops=2, magnitude=9)


def strong_view(image: Tensor, index: int, seed: int, epoch: int) -> Tensor:
    """A view of a uint8 image (3, H, W), a function of (seed, epoch, index); the global random state is not changed."""
    with seeded(index, seed, epoch, stream=5):
        return _RAND_AUGMENT(image)


def strong_views(images: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
    """`strong_view` of each image (B, H, W, 3), in the same layout."""
    pairs = zip(images.permute(0, 3, 1, 2), index.tolist(), strict=True)
    return torch.stack([strong_view(image, i, seed, epoch) for image, i in pairs]).permute(0, 2, 3, 1)
