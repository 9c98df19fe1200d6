"""Networks: `MODELS` maps a family to its registry of builders, `build_model` creates a network."""

from . import cifar, cub200, imagenet, tiny_imagenet
from .build import MODELS, build_model
from .staged import StagedModel

__all__ = ["MODELS", "StagedModel", "build_model", "cifar", "cub200", "imagenet", "tiny_imagenet"]
