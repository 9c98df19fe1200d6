"""The registry of data sets, and the loaders of a run."""

from typing import NamedTuple

import torch
from yacs.config import CfgNode as CN

from ..errors import ConfigError
from ..registry import Registry
from .resident import ImageSet, Recipe, ResidentLoader

DATASETS = Registry("data set")
"""Maps DATASET.TYPE to a function cfg -> ImageSource."""


class ImageSource(NamedTuple):
    """A data set in memory: training set, test set, and how the literature augments it."""

    train: ImageSet
    test: ImageSet
    recipe: Recipe


class Data(NamedTuple):
    """The loaders of one run."""

    train: ResidentLoader
    test: ResidentLoader
    num_classes: int

    @property
    def num_train(self) -> int:
        return self.train.num_samples

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, *self.train.size)


def pick_device(cfg: CN) -> torch.device:
    """EXPERIMENT.DEVICE as a device; ConfigError where it asks for a GPU that is not there."""
    name = cfg.EXPERIMENT.DEVICE
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(
            f"EXPERIMENT.DEVICE is {name}; {torch.cuda.device_count()} CUDA devices here: use auto or cpu"
        )
    return device


def build_data(cfg: CN, device: torch.device | None = None) -> Data:
    """Load DATASET.TYPE and make its loaders.

    Raises DataError where the data set is missing or damaged, ConfigError where the batch exceeds it.
    """
    device = pick_device(cfg) if device is None else device
    source = DATASETS[cfg.DATASET.TYPE](cfg)
    if len(source.train.labels) < cfg.SOLVER.BATCH_SIZE:
        raise ConfigError(
            f"SOLVER.BATCH_SIZE is {cfg.SOLVER.BATCH_SIZE}; {cfg.DATASET.TYPE} has {len(source.train.labels)} "
            "training images: use at most that many"
        )
    common = {"device": device, "channels_last": cfg.SOLVER.CHANNELS_LAST}
    train = ResidentLoader(
        source.train, source.recipe, cfg.SOLVER.BATCH_SIZE, train=True, seed=cfg.SOLVER.SEED, **common
    )
    test = ResidentLoader(source.test, source.recipe, cfg.DATASET.TEST.BATCH_SIZE, train=False, **common)
    return Data(train, test, len(source.train.classes))
