"""Data sets: `DATASETS` maps a name to its images, `build_data` makes the loaders of a run."""

from . import cifar100, digits
from .batch import Batch
from .build import DATASETS, Data, build_data, pick_device

__all__ = ["DATASETS", "Batch", "Data", "build_data", "cifar100", "digits", "pick_device"]
