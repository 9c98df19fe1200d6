"""The augmentation of image files as a config adjusts it."""

from yacs.config import CfgNode as CN

from ..errors import ConfigError
from .auto_augment import augmented
from .image_files import FileRecipe
from .preprocessing import adjusted, turned_first
from .scaled_crop import decoded_in_crops


def adjusted_recipe(cfg: CN, recipe: FileRecipe, *, in_memory: bool) -> FileRecipe:
    """A dataset's recipe with what the config adds to it; ConfigError for what it has no use for.

    `in_memory`: the images are decoded already.
    """
    recipe = _with_other_crops(cfg, recipe)
    recipe = augmented(recipe, cfg.DATASET.AUTO_AUGMENT, cfg.DATASET.ERASING)
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
