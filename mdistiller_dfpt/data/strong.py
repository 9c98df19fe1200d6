"""The strongly augmented view of a sample: RandAugment (Cubuk et al., 2020, arXiv:1909.13719) by torchvision."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from .randomness import random_bits

_RAND_AUGMENT = v2.RandAugment(num_ops=2, magnitude=9)


def strong_views(images: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
    """Views of uint8 images (B, H, W, 3), each a function of (seed, epoch, its index); the global state stays."""
    seeds = random_bits(index, seed, epoch, stream=5).tolist()
    views = []
    with torch.random.fork_rng(devices=[]):
        for image, bits in zip(images.permute(0, 3, 1, 2), seeds, strict=True):
            torch.manual_seed(bits)
            views.append(_RAND_AUGMENT(image))
    return torch.stack(views).permute(0, 2, 3, 1)
