"""The augmentation of a dataset as a config adjusts it."""

from collections.abc import Sequence

import torch
from torchvision.transforms import v2
from yacs.config import CfgNode as CN

from ..config.keywords import asked_for, keywords_for
from ..errors import ConfigError, made
from .augmentation import AUGMENTATIONS, Augmentation, Augmentations, try_on_noise
from .auto_augment import Erasing, TimmPolicy
from .image_files import FileRecipe
from .preprocessing import adjusted, turned_first
from .scaled_crop import decoded_in_crops


def adjusted_recipe(cfg: CN, recipe: FileRecipe, *, in_memory: bool) -> FileRecipe:
    """A dataset's recipe with what the config adds to it; ConfigError for what it has no use for.

    `in_memory`: the images are decoded already.
    """
    recipe = _with_other_crops(cfg, recipe)
    more = augmentations_of(cfg, (recipe.size, recipe.size), recipe.mean, recipe.std)
    if more:
        train = v2.Compose([recipe.train, *more.steps()])
        recipe = recipe._replace(train=train, words=", ".join([recipe.words, *more.words]))
    if cfg.DATASET.UPRIGHT:
        recipe = recipe._replace(
            train=turned_first(recipe.train), test=turned_first(recipe.test), words=f"turned by EXIF, {recipe.words}"
        )
    if cfg.DATASET.DECODE == "exact":
        return recipe
    try:
        if in_memory:
            raise ValueError("is of images in memory")
        return decoded_in_crops(recipe)
    except ValueError as e:
        raise ConfigError(f"DATASET.DECODE is {cfg.DATASET.DECODE}; the augmentation of {cfg.DATASET.TYPE}"
                          f" ({recipe.words}) {e}: remove the key") from None  # fmt: skip


def augmentations_of(
    cfg: CN, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu"
) -> Augmentations:
    """Those that a config asks for, of images of this height and width on this device, each tried on noise.

    ConfigError for an unknown name, PluginError for one that does not return images.
    """
    offered = {"image_shape": (3, *size), "mean": tuple(mean), "std": tuple(std)}
    parts: dict[str, Augmentation] = {}
    if policy := cfg.DATASET.AUTO_AUGMENT:
        parts[policy] = TimmPolicy(policy, size[0], mean)
    if (probability := cfg.DATASET.ERASING) > 0:
        parts[f"random erasing {probability:g}"] = Erasing(probability, mean, std)
    for name in cfg.DATASET.AUGMENT:
        cls = AUGMENTATIONS[name]
        values = keywords_for(cls, cfg[AUGMENTATIONS.node_of(name)]) if cls.config else {}
        words = [f"{key.replace('_', ' ')} {value}" for key, value in values.items()]
        made_of = {**asked_for(cls, offered), **values}  # a key of its own may have such a name
        parts[f"{name} ({', '.join(words)})" if words else name] = own = made(cls, **made_of)
        try_on_noise(own, (3, *size), device)
    return Augmentations(list(parts.values()), list(parts))


def _with_other_crops(cfg: CN, recipe: FileRecipe) -> FileRecipe:
    """The recipe with the interpolation and the crops that the config asks for; ConfigError if it has none such."""
    interpolation, scale = cfg.DATASET.INTERPOLATION, cfg.DATASET.CROP_SCALE
    if interpolation is None and scale is None:
        return recipe
    try:
        test = recipe.test if interpolation is None else adjusted(recipe.test, interpolation, None)
        train = adjusted(recipe.train, interpolation, scale)
    except ValueError as e:
        given = [f"DATASET.{key} is {value}" for key, value in (("INTERPOLATION", interpolation), ("CROP_SCALE", scale))
                 if value is not None]  # fmt: skip
        raise ConfigError(f"{', '.join(given)}; the augmentation of {cfg.DATASET.TYPE} ({recipe.words}) has {e}: set"
                          " DATASET.RECIPE imagenet, or remove the key") from None  # fmt: skip
    words = [recipe.words, interpolation, scale and f"crops of at least {scale:g} of the area"]
    return recipe._replace(train=train, test=test, words=", ".join(str(word) for word in words if word))
