"""Data sets: `DATASETS` maps a name to its images, `build_data` makes the loaders of a run."""

from . import cifar100, cub200, digits, folder, imagenet, tiny_imagenet
from .batch import Batch, Share
from .build import DATASETS, Data, build_data, pick_device

__all__ = [
    "DATASETS", "Batch", "Data", "Share", "build_data", "cifar100", "cub200", "digits", "folder", "imagenet",
    "pick_device", "tiny_imagenet",
]  # fmt: skip
