"""Datasets: `DATASETS` maps names to datasets, `build_data` creates the loaders of a run."""

from . import sets
from .augmentation import AUGMENTATIONS, Augmentation, PictureAugmentation
from .batch import Batch, Shard
from .build import DATASETS, Data, FileSource, ImageSource, build_data
from .own_loaders import data_from_loaders

__all__ = [
    "AUGMENTATIONS", "DATASETS", "Augmentation", "Batch", "Data", "FileSource", "ImageSource", "PictureAugmentation",
    "Shard", "build_data", "data_from_loaders", "sets",
]  # fmt: skip
