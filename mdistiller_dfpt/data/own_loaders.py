"""The data of a program: its own DataLoaders of images and labels, as the trainer of this package takes them."""

import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from yacs.config import CfgNode as CN

from ..distributed import pick_device, world_size
from ..errors import ConfigError, DataError
from .batch import Batch, as_batch
from .build import DATASETS, Data, refuse_equal_names
from .loader import Loader
from .normalisation import Normalisation
from .preprocessing import Preprocessing
from .randomness import random_bits_of

OWN = "own"  # DATASET.TYPE of such data
STREAM = 9  # of random numbers
AS_THEY_ARE = Normalisation((0.0,) * 3, (1.0,) * 3)


@DATASETS.register(OWN)
def _own(cfg: CN) -> NoReturn:
    raise DataError(f"DATASET.TYPE is {OWN}: these data are DataLoaders of a program, which alone can give them:"
                    " name another dataset, or for `eval` class folders by --images")  # fmt: skip


class _Random:
    """A random state of PyTorch of its own: code inside of `with` draws from it, and code outside never sees it."""

    def __init__(self, seed: int):
        self.state = torch.Generator().manual_seed(seed).get_state()

    def __enter__(self) -> None:
        self.outside = torch.get_rng_state()
        torch.set_rng_state(self.state)

    def __exit__(self, *error: object) -> None:
        self.state = torch.get_rng_state()
        torch.set_rng_state(self.outside)


class OwnLoader(Loader):
    """The batches of a DataLoader that yields (images, labels) or (images, labels, index), as they are.

    What it draws from PyTorch's random numbers in an epoch, such as the order of the samples, is a function of the seed
    and the epoch: a resumed run gets what an uninterrupted one gets.
    """

    def __init__(
        self, loader: DataLoader, classes: int, *, train: bool, seed: int, device: torch.device, channels_last: bool,
        preprocessing: Preprocessing | None,
    ):  # fmt: skip
        self.loader, self.classes, self.train, self.seed = loader, classes, train, seed
        self.drop_last, self.place, self.how = loader.drop_last, device, preprocessing
        if train and loader.persistent_workers:
            raise ConfigError("the workers of the training DataLoader are persistent: what they draw at random goes on"
                              " from one epoch to the next, and a resumed run gets other images than an uninterrupted"
                              " one: make it without `persistent_workers`")  # fmt: skip
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.augmentation = "by the program"
        self.normalisation = AS_THEY_ARE if preprocessing is None else Normalisation(*preprocessing[2:4])
        size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
        if size is None:
            raise ConfigError("the DataLoader does not say how large its batches are: give it a batch_size")
        self.batch_size = size
        try:
            self.count, self.used = len(loader.dataset), len(loader.sampler)  # type: ignore[arg-type]
            len(loader)
        except TypeError:
            raise ConfigError("the data set of a DataLoader has no length, which the schedule needs: give one that has"
                              " `__len__` and `__getitem__`") from None  # fmt: skip
        first = next(self.epoch())
        self.size = (first.image.shape[2], first.image.shape[3])
        self.has_index = "index" in first.given

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def device(self) -> torch.device:
        return self.place

    @property
    def num_samples(self) -> int:
        return self.count

    @property
    def num_per_epoch(self) -> int:
        return min(self.used, len(self) * self.batch_size)

    @functools.cached_property
    def labels(self) -> Tensor:  # type: ignore[override]
        """The labels of an epoch, in its order, by one more pass; read where a warning needs them."""
        return torch.cat([batch.target for batch in self.epoch()])

    @property
    def normalised_by(self) -> str:
        return "a normalisation by the program" if self.how is None else super().normalised_by

    def preprocessing(self) -> Preprocessing | None:
        return self.how

    def epoch(self, epoch: int = 1, first: int = 0, *, strong: bool = False) -> Iterator[Batch]:
        if strong:
            raise ConfigError("the method needs a second, strongly augmented view of each image, which a DataLoader of"
                              " a program does not give: use a data set of this package")  # fmt: skip
        seed = random_bits_of(0, self.seed, epoch if self.train else 1, STREAM)
        for part in (self.loader, self.loader.sampler):
            if (generator := getattr(part, "generator", None)) is not None:
                generator.manual_seed(seed)
        random = _Random(seed)
        with random:
            batches = iter(self.loader)
        for step in range(1, len(self) + 1):
            with random:
                found = next(batches)
            if step > first:
                yield self._batch(found, epoch, step)

    def _batch(self, found: Any, epoch: int, step: int) -> Batch:
        if not isinstance(found, list | tuple) or len(found) not in (2, 3):
            what = f"a {type(found).__name__}" + (f" of {len(found)}" if isinstance(found, list | tuple) else "")
            raise ConfigError(f"a batch of the DataLoader is {what}; it must be (images, labels) or (images, labels,"
                              " index): give it a collate_fn")  # fmt: skip
        image, target, *index = found
        if isinstance(image, Tensor) and image.dim() == 4 and image.shape[1] != 3:
            raise DataError(f"images have {image.shape[1]} channels; networks here take 3: repeat a single one")
        batch = as_batch(image, target, epoch=epoch, step=step, **({"index": index[0]} if index else {}))
        if len(target) and not 0 <= int(target.min()) <= int(target.max()) < self.classes:
            raise DataError(f"labels are from {int(target.min())} to {int(target.max())}; {self.classes} classes are 0"
                            f" to {self.classes - 1}")  # fmt: skip
        on_device = {name: value.to(self.device, non_blocking=True) for name, value in batch.given.items()
                     if isinstance(value, Tensor)}  # fmt: skip
        on_device["image"] = on_device["image"].contiguous(memory_format=self.layout)
        return batch.replaced(**on_device)

    def only(self, kept: Tensor) -> Any:
        raise _whole()

    def as_test(self, index: Tensor) -> Any:
        raise _whole()


def _whole() -> ConfigError:
    return ConfigError("the method holds samples out of the training set, which a DataLoader of a program does not"
                       " allow: use a data set of this package")  # fmt: skip


def data_from_loaders(
    cfg: CN, train: DataLoader, test: DataLoader, classes: int | Sequence[str],
    preprocessing: Preprocessing | None = None,
) -> Data:  # fmt: skip
    """A program's own DataLoaders as the data of a `Trainer`, with the device and the seed of the config.

    They yield (images, labels), or (images, labels, index) for methods that read the samples' positions in the training
    set: images (B, 3, H, W) float, normalised, labels and index (B,) int64. `classes`: their names, or their number.
    `preprocessing`: how one image becomes what the test loader yields, kept with the student, which predicts with it.
    ConfigError or DataError if they are otherwise.
    """
    if world_size() > 1:
        raise ConfigError("DataLoaders of a program give all processes the same batches: use a data set of this package"
                          " with torchrun, or a loop of your own")  # fmt: skip
    names = () if isinstance(classes, int) else tuple(classes)
    refuse_equal_names(names, "the data of the program have")
    count = classes if isinstance(classes, int) else len(names)
    common: dict[str, Any] = {
        "seed": cfg.SOLVER.SEED if cfg.DATASET.SEED is None else cfg.DATASET.SEED,
        "device": pick_device(cfg.EXPERIMENT.DEVICE), "channels_last": cfg.SOLVER.CHANNELS_LAST,
        "preprocessing": preprocessing,
    }  # fmt: skip
    own, other = OwnLoader(train, count, train=True, **common), OwnLoader(test, count, train=False, **common)
    if own.batch_size != cfg.SOLVER.BATCH_SIZE:
        raise ConfigError(f"SOLVER.BATCH_SIZE is {cfg.SOLVER.BATCH_SIZE}; the batches of the DataLoader have"
                          f" {own.batch_size}: set the key to that")  # fmt: skip
    if own.size != other.size:
        raise DataError(f"training images are {own.size[0]}x{own.size[1]}, test images {other.size[0]}x{other.size[1]}:"
                        " give both the same size")  # fmt: skip
    _say_what_is_tested(other)
    return Data(own, other, count, names=names)


def _say_what_is_tested(test: OwnLoader) -> None:
    """A warning where a pass over the test set is not each of its samples once."""
    tested, count = test.num_per_epoch, test.num_samples
    if getattr(test.loader.sampler, "replacement", False):
        what = f"draws {tested} samples with replacement, so that some count twice and others not at all"
    elif tested != count:
        what = f"gives {tested} of the {count} samples of its data set" + (", with drop_last" if test.drop_last else "")
    else:
        return
    print(f"warning: the test DataLoader {what}: the accuracies are of these", file=sys.stderr)
