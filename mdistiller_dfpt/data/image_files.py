"""Datasets of image files: decoded and augmented in `DataLoader` workers, normalised on the device."""

import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from ..environment import packages_of
from ..errors import DataError, UserError, kind_of
from .batch import Batch
from .loader import Loader, hashes_of
from .preprocessing import Preprocessing, resize_and_crop, steps_of
from .read_image import Fault, read_image
from .samples import Decoded, Files, Raised, Transform, collate
from .workers import awaited, check_room, fault_of_worker, leave_all_to_the_trainer, remedy, watch_workers

T = TypeVar("T")


class FileSet(NamedTuple):
    """Paths of the images, labels (N,) int64, class names in label order."""

    paths: list[str]
    labels: Tensor
    classes: tuple[str, ...]
    images: Tensor | None = None  # (N, H, W, 3) uint8, if they are decoded already; `paths` are then their names


class FileRecipe(NamedTuple):
    """Augmentation and test transform of a dataset, torchvision v2 transforms of PIL images, with a description."""

    train: Transform
    test: Transform
    words: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    by_path: bool = False  # whether `train` takes the path of a file, not its image


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet_recipe(size: int) -> FileRecipe:
    """Random resized crop and flip; for testing, resize to 8/7 of the size and centre crop (as in torchvision)."""
    larger = round(size * 256 / 224)
    return FileRecipe(
        v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]),
        v2.Compose([v2.Resize(larger), v2.CenterCrop(size)]),
        f"random resized crop {size}, flip", size, IMAGENET_MEAN, IMAGENET_STD,
    )  # fmt: skip


class _Schedule:
    """The keys (epoch, index) of each batch; the workers read them again at every epoch."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class FileLoader(Loader):
    """Batches of image files. A file that is not an image ends the run, which names it, or is skipped and counted."""

    def __init__(
        self, files: FileSet, recipe: FileRecipe, batch_size: int, *, train: bool, seed: int = 0,
        device: torch.device | str = "cpu", channels_last: bool = False, workers: int = 0, skip_faults: bool = False,
        timeout: float = 0, drop_last: bool = False,
    ):  # fmt: skip
        super().__init__(
            files.labels, batch_size, train=train, seed=seed, device=device, channels_last=channels_last,
            mean=recipe.mean, std=recipe.std, drop_last=drop_last,
        )  # fmt: skip
        self.augmentation, self.size = recipe.words, (recipe.size, recipe.size)
        self.skip_faults = skip_faults
        self.classes, self.recipe = files.classes, recipe
        transform = recipe.train if train else recipe.test
        self.files = Files(files.paths, files.images, transform, seed, by_path=train and recipe.by_path)
        self.workers, self.timeout = workers, timeout
        self.schedule = _Schedule()
        self._loader: DataLoader | None = None

    def only(self, kept: Tensor) -> Self:
        other = super().only(kept)
        other.schedule, other._loader = _Schedule(), None  # its epochs are its own
        return other

    def as_test(self, index: Tensor) -> "FileLoader":
        paths = [self.files.paths[i] for i in index.tolist()]
        images = None if self.files.images is None else self.files.images[index]
        own = FileSet(paths, self.labels[index.to(self.device)], self.classes, images)
        other = FileLoader(
            own, self.recipe, self.batch_size, train=False, device=self.device,
            channels_last=self.layout == torch.channels_last, workers=self.workers, skip_faults=self.skip_faults,
            timeout=self.timeout,
        )  # fmt: skip
        other.sharded = False
        return other

    @property
    def packages(self) -> set[str]:
        return packages_of(steps_of(self.files.transform)) | {"PIL"}

    def name(self, index: int) -> str:
        return self.files.paths[index]

    def picture(self, index: int) -> Image.Image | None:
        if self.files.images is not None:
            return Image.fromarray(self.files.images[index].numpy())
        image = read_image(self.files.paths[index])
        return None if isinstance(image, Fault) else image

    def preprocessing(self) -> Preprocessing | None:
        steps = resize_and_crop(self.recipe.test)
        if steps is None:
            return None
        return Preprocessing(steps.resize, steps.crop, *self.normalisation, self.size, *steps[2:])

    def contents(self, index: Tensor | None = None) -> list[str]:
        rows = range(self.num_samples) if index is None else index.tolist()
        if self.files.images is not None:
            return hashes_of(self.files.images[list(rows)])
        return [os.path.abspath(self.files.paths[i]) for i in rows]

    def epoch(self, epoch: int = 1, first: int = 0, *, strong: bool = False) -> Iterator[Batch]:
        shards = list(self.shards(self.order(epoch), epoch, first))
        self.schedule.batches = [[(epoch, i) for i in shard.index.tolist()] for shard in shards]
        skipped: list[Fault] = []
        for shard, (images, second, index, faults) in zip(shards, self._decoded(strong), strict=True):
            if faults and not self.skip_faults:
                fault = faults[0]
                skip = "" if self.drop_last else ", or add `DATASET.ON_ERROR skip` to skip such files"
                raise DataError(f"{fault.path}: cannot be read as an image ({fault.reason}); replace it{skip}")
            skipped += faults
            if images is None:
                continue
            index = index.to(self.device, non_blocking=True)
            second = None if second is None else self._on_device(second)
            total = shard.total - len(faults)  # skipped in a single process alone, which reads the whole batch
            yield Batch(self._on_device(images), self.labels[index], index, epoch, shard.step, second, total)
        if skipped:
            print(f"warning: skipped {len(skipped)} files that are not images, the first is {skipped[0].path} "
                  f"({skipped[0].reason})", file=sys.stderr)  # fmt: skip

    def _decoded(self, strong: bool) -> Iterator[Decoded]:
        if not self.schedule.batches:
            return
        if strong != self.files.strong:
            self.files.strong, self._loader = strong, None  # workers keep the settings that they started with
        if self._loader is None:  # the first epoch starts the workers
            if self.workers:
                largest = max(map(len, self.schedule.batches), default=0)
                check_room(self.workers, largest * self.recipe.size**2 * 3 * (1 + strong))
            self._loader = DataLoader(
                self.files, batch_sampler=self.schedule, collate_fn=collate, num_workers=self.workers,
                persistent_workers=self.workers > 0, pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # separate, since each epoch would otherwise advance the global state
                multiprocessing_context="spawn" if self.workers and self.device.type == "cuda" else None,
                worker_init_fn=leave_all_to_the_trainer,
            )  # fmt: skip
        loader, batches = self._loader, self.schedule.batches
        decoded = self._from_workers(lambda: iter(loader), batches[0])
        if self.workers:
            watch_workers(decoded)
        for keys in batches:
            yield self._from_workers(lambda: next(decoded), keys)

    def _from_workers(self, images: Callable[[], T | Raised | str], keys: list[tuple[int, int]]) -> T:
        """What a call returns that waits for the batch of these keys; DataError that names them if it does not come.

        UserError for an error of the user's code in a worker.
        """
        try:
            got = awaited(images, (self.workers and self.timeout) or math.inf)
            if isinstance(got, Raised):
                raise UserError(got.what)
            if not isinstance(got, str):
                return got
            what, why = "cannot pass on its images", got
        except (RuntimeError, OSError) as e:
            if (fault := fault_of_worker(e)) is None:
                raise
            what, why = "died or hangs", fault
        raise kind_of(why)(
            f"a data-loading worker {what} ({why}), at {len(keys)} images from {self.files.paths[keys[0][1]]} on;"
            f" lower DATASET.NUM_WORKERS (now {self.workers}) or {remedy(why, self.timeout)}, and continue with"
            " --resume auto"
        )

    def _on_device(self, images: Tensor) -> Tensor:
        return self.normalised(images.to(self.device, non_blocking=True))
