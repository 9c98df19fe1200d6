"""The registry of datasets, and the loaders of a run."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from yacs.config import CfgNode as CN

from ..config.policy import PUBLISHED_SIZE
from ..distributed import num_cores, on_first_process, pick_device, rank, world_size
from ..errors import ConfigError, DataError, is_users, place_of
from ..invocation import command_line
from ..open_files import allow_open_files
from ..registry import Registry
from .batch import Batch
from .content import Content, common_to, content_of
from .extra import OTHER_SEED, Pool, files_below, matching
from .image_files import FileLoader, FileRecipe, FileSet, imagenet_recipe
from .in_memory import ImageSet, InMemoryLoader, Recipe
from .loader import Loader
from .normalisation import Normalisation
from .recipe import adjusted_recipe, augmentations_of
from .superclasses import joined
from .validation import split_off

DATASETS: "Registry[Callable[[CN], ImageSource | FileSource]]" = Registry("dataset", "DATASET.TYPE")
"""Maps DATASET.TYPE to a function cfg -> ImageSource or FileSource."""


class ImageSource(NamedTuple):
    """A dataset in memory: training set, test set, and the augmentation used in the literature."""

    train: ImageSet
    test: ImageSet
    recipe: Recipe


class FileSource(NamedTuple):
    """A dataset of image files: training set, test set, and the augmentation used in the literature."""

    train: FileSet
    test: FileSet
    recipe: FileRecipe
    folder: str = ""  # the name of its folder, if DATASET.TYPE does not say which dataset it is


class Data(NamedTuple):
    """The loaders of one run."""

    train: Loader
    test: Loader
    num_classes: int
    content: Content | None = None  # of the dataset, if it was loaded by `build_data`
    extra: Pool | None = None  # unlabelled images, a batch of which goes with each step
    names: tuple[str, ...] = ()  # of the classes; (): they are numbered
    validation: Loader | None = None  # what is split off the training set
    num_joined: int | None = None  # classes of the dataset before they are joined to `num_classes`, if they are
    folder: str = ""  # the name of its folder, for a reader, if DATASET.TYPE does not say which dataset it is

    def batches(self, epoch: int, first: int = 0, *, strong: bool = False) -> Iterator[Batch]:
        """The training batches of an epoch, starting with number `first`, with unlabelled images if there are any."""
        batches = self.train.epoch(epoch, first, strong=strong)
        if self.extra is None:
            return batches
        return self.extra.beside(batches, (epoch - 1) * len(self.train), first, strong=strong)

    @property
    def packages(self) -> set[str]:
        """The packages whose code decodes or augments images, beside PyTorch and this one."""
        extra = set() if self.extra is None else self.extra.loader.packages
        return self.train.packages | self.test.packages | extra

    @property
    def in_files(self) -> bool:
        """Whether the images are decoded from files in every epoch."""
        return isinstance(self.train, FileLoader)

    @property
    def judges(self) -> Loader:
        """What epochs are evaluated on: the validation set if there is one, else the test set."""
        return self.test if self.validation is None else self.validation

    @property
    def judged_on(self) -> str:
        """Which set that is: validation or test."""
        return "test" if self.validation is None else "validation"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or their numbers."""
        return self.names or tuple(map(str, range(self.num_classes)))

    @property
    def num_train(self) -> int:
        """Samples in the training set."""
        return self.train.num_samples

    @property
    def normalisation(self) -> Normalisation:
        """Of the images that the loaders return."""
        return self.train.normalisation

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(3, H, W) of the images that the loaders return."""
        return (3, *self.train.size)


def build_data(cfg: CN, device: torch.device | None = None) -> Data:
    """Load DATASET.TYPE and create its loaders.

    Raises DataError if the dataset is missing or damaged, ConfigError if the batch is larger than the dataset; the same
    for its unlabelled images, if there are any.
    """
    device = pick_device(cfg.EXPERIMENT.DEVICE) if device is None else device
    source = _load(cfg)
    classes = len(source.train.classes)
    if classes == 1:
        print(f"warning: {cfg.DATASET.TYPE} has a single class: every accuracy is 100 %", file=sys.stderr)
    if cfg.DATASET.CLASSES not in (None, classes):
        raise ConfigError(f"DATASET.CLASSES is {cfg.DATASET.CLASSES}; {cfg.DATASET.TYPE} has {classes} classes here:"
                          " correct it, or remove the key")  # fmt: skip
    num_joined = None
    if groups := cfg.DATASET.SUPERCLASSES:
        source, num_joined = _joined(source, groups), classes
        classes = len(source.train.classes)
    content = content_of(source.train, source.test)
    extra = None if cfg.DATASET.EXTRA.TYPE is None else _unlabelled(cfg, source.train)
    if cfg.DATASET.RECIPE == "imagenet":
        source = as_files(source, cfg.DATASET.SIZE or PUBLISHED_SIZE)
        extra = _as_file_set(extra, "unlabelled") if isinstance(extra, ImageSet) else extra
    make: Callable[..., Loader] = InMemoryLoader
    common: dict[str, Any] = {"device": device, "channels_last": cfg.SOLVER.CHANNELS_LAST}
    if isinstance(source, FileSource):
        skips = cfg.DATASET.ON_ERROR == "skip"
        if skips and world_size() > 1:
            raise ConfigError(
                "DATASET.ON_ERROR is skip; all processes need batches of equal size: "
                f"find such files by `{command_line('check-data')}` and remove them"
            )
        make = FileLoader
        common |= {
            "workers": _workers(cfg.DATASET.NUM_WORKERS),
            "skip_faults": skips,
            "timeout": cfg.EXPERIMENT.TIMEOUT,
        }
    else:
        common |= {"size": cfg.DATASET.SIZE}
    seed = cfg.SOLVER.SEED if cfg.DATASET.SEED is None else cfg.DATASET.SEED
    recipe = recipe_of(cfg, source.recipe, in_memory=source.train.images is not None)
    of_training: dict[str, Any] = {"train": True, "seed": seed}
    own, judges = source.train, None
    if cfg.DATASET.VALIDATION:
        own, chosen = split_off(source.train, cfg.DATASET.VALIDATION)
        if (copies := common_to(chosen, own)) and rank() == 0:
            print(f"note: {copies} of {len(chosen.labels)} validation images are training images too", flush=True)
        judges = make(chosen, recipe, cfg.DATASET.TEST.BATCH_SIZE, train=False, **common)
    if len(own.labels) < cfg.SOLVER.BATCH_SIZE:
        raise ConfigError(
            f"SOLVER.BATCH_SIZE is {cfg.SOLVER.BATCH_SIZE}; {cfg.DATASET.TYPE} has {len(own.labels)} "
            "training images: use at most that many"
        )
    if isinstance(own, ImageSet):
        size = (own.images.shape[1], own.images.shape[2])
        of_training["more"] = augmentations_of(cfg, size, recipe.mean, recipe.std, device)
    train = make(own, recipe, cfg.SOLVER.BATCH_SIZE, **of_training, **common)
    test = make(source.test, recipe, cfg.DATASET.TEST.BATCH_SIZE, train=False, **common)
    data = Data(
        train, test, classes, content, names=source.train.classes, validation=judges, num_joined=num_joined,
        folder=getattr(source, "folder", ""),
    )  # fmt: skip
    if extra is None:
        return data
    batch = cfg.DATASET.EXTRA.BATCH_SIZE or cfg.SOLVER.BATCH_SIZE
    of_training |= {"drop_last": True, "seed": seed + OTHER_SEED}
    return data._replace(extra=Pool.of(extra, make(extra, recipe, batch, **of_training, **common)))


def recipe_of(cfg: CN, recipe: Recipe | FileRecipe, *, in_memory: bool = False) -> Recipe | FileRecipe:
    """The recipe of a dataset with what the config changes of it; ConfigError if it cannot be changed so.

    `in_memory`: its images are decoded already.
    """
    recipe = recipe._replace(mean=tuple(cfg.DATASET.MEAN or recipe.mean), std=tuple(cfg.DATASET.STD or recipe.std))
    return adjusted_recipe(cfg, recipe, in_memory=in_memory) if isinstance(recipe, FileRecipe) else recipe


def _workers(wanted: int) -> int:
    """At most one worker for each core of this process: more only take memory, and PyTorch warns of them.

    ConfigError if so many could not open their files.
    """
    cores = num_cores()
    if wanted > cores:
        many = f"{cores} cores" if cores > 1 else "1 core"
        print(f"DATASET.NUM_WORKERS is {wanted}; this process has {many}, so {cores} read images", flush=True)
    workers = min(wanted, cores)
    allow_open_files(workers)
    return workers


def _load(cfg: CN) -> ImageSource | FileSource:
    """The dataset DATASET.TYPE, checked."""
    load = DATASETS[cfg.DATASET.TYPE]
    if cfg.DATASET.DOWNLOAD and world_size() > 1:  # one process downloads and unpacks, then the others find the files
        on_first_process(lambda: load(cfg) and None)
    source = load(cfg)
    name = f"{cfg.DATASET.TYPE} ({place_of(load)})" if is_users(load) else cfg.DATASET.TYPE
    for split in (source.train, source.test):
        _check_split(split, name)
    return source


def _unlabelled(cfg: CN, train: ImageSet | FileSet) -> ImageSet | FileSet:
    """The images of DATASET.EXTRA, in memory if those of the training set are; of another dataset, its training set."""
    extra = cfg.DATASET.EXTRA
    root = cfg.DATASET.ROOT if extra.ROOT is None else extra.ROOT
    if extra.TYPE == "images":
        return matching(files_below(Path(root)), train, extra.TYPE, resize=extra.RESIZE)
    other = cfg.clone()
    other.defrost()
    other.DATASET.TYPE, other.DATASET.ROOT, other.DATASET.CLASSES = extra.TYPE, root, None
    other.freeze()
    return matching(_load(other).train, train, extra.TYPE, resize=extra.RESIZE)


def _joined(source: ImageSource | FileSource, groups: Sequence[int]) -> ImageSource | FileSource:
    if isinstance(source, ImageSource):
        return source._replace(train=joined(source.train, groups), test=joined(source.test, groups))
    return source._replace(train=joined(source.train, groups), test=joined(source.test, groups))


def as_files(source: ImageSource | FileSource, size: int) -> FileSource:
    """A dataset, in files or in memory, with the augmentation of ImageNet, and its own mean and deviation."""
    recipe = imagenet_recipe(size)._replace(mean=source.recipe.mean, std=source.recipe.std)
    if isinstance(source, FileSource):
        return source._replace(recipe=recipe)
    return FileSource(_as_file_set(source.train, "training"), _as_file_set(source.test, "test"), recipe)


def _as_file_set(split: ImageSet, name: str) -> FileSet:
    names = [f"{name} image {i}" for i in range(len(split.labels))]
    return FileSet(names, split.labels, split.classes, split.images)


def _check_split(split: ImageSet | FileSet, name: str) -> None:
    """DataError unless a split is as `ImageSet` or `FileSet` says: labels of -100, say, would go unnoticed later."""
    labels, classes = split.labels, len(split.classes)
    if not all(isinstance(c, str) for c in split.classes):
        raise DataError(f"{name} has the classes {list(split.classes)[:5]}; they must be names, as str")
    refuse_equal_names(split.classes, f"{name} has")
    if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64 or labels.dim() != 1:
        raise DataError(f"{name} has labels {_kind(labels)}; they must be a tensor int64 (N,)")
    if isinstance(split, ImageSet):
        images = split.images
        fits = isinstance(images, torch.Tensor) and images.dtype == torch.uint8 and images.dim() == 4
        if not fits or images.shape[-1] != 3:
            raise DataError(f"{name} has images {_kind(images)}; they must be a tensor uint8 (N, H, W, 3)")
    count = len(split.images if isinstance(split, ImageSet) else split.paths)
    if count != len(labels):
        raise DataError(f"{name} has {count} images and {len(labels)} labels in a split")
    if not count:
        raise DataError(f"{name} has a split without images")
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= classes:
        raise DataError(f"{name} has labels from {low} to {high}; its {classes} classes are 0 to {classes - 1}")


def refuse_equal_names(classes: Sequence[str], whose: str) -> None:
    """DataError if several classes have one name: what is measured of each of them is kept by its name."""
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise DataError(f"{whose} several classes of the name {twice[0]!r}: give each a name of its own")


def _kind(value: Any) -> str:
    """`tensor float32 (10, 3)`: what an array is."""
    what = "tensor" if isinstance(value, torch.Tensor) else type(value).__name__
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    return f"{what} {dtype} {tuple(getattr(value, 'shape', ()))}"
