"""Common to all loaders: the order of an epoch, this process's shard of each batch, normalisation on the device."""

import copy
import hashlib
from collections.abc import Iterator
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from ..distributed import rank, world_size
from .batch import Batch, Shard
from .normalisation import Normalisation
from .preprocessing import Preprocessing
from .randomness import epoch_order


class Loader:
    """Batches of a dataset. `epoch(e)` returns the batches of epoch e; they are the same on every call.

    `batch_size` is the global batch size; each process gets every `world_size`-th sample of a batch, so the order is
    the same for any number of processes. `drop_last`: only full batches; what is left of an epoch is not used.
    """

    augmentation: str  # a description, for the protocol of a run
    size: tuple[int, int]  # height and width of the images it returns
    kept: Tensor | None = None  # (N,) bool, on the CPU: the samples that its epochs have; None: all
    num_left_out = 0  # samples that its epochs do not have
    passed = 0  # passes by `iter`, which are epochs of their own
    sharded = True  # whether the processes of a run share a batch, or each of them gets all of it

    def __init__(
        self, labels: Tensor, batch_size: int, *, train: bool, seed: int, device: torch.device | str,
        channels_last: bool, mean: tuple[float, ...], std: tuple[float, ...], drop_last: bool = False,
    ):  # fmt: skip
        self.labels = labels.to(device)
        self.batch_size, self.train, self.seed, self.drop_last = batch_size, train, seed, drop_last
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        # (image / 255 - mean) / std as one multiplication and addition
        self.normalisation = Normalisation(tuple(mean), tuple(std))
        deviation = torch.tensor(std, device=device)
        self.scale = 1 / (255 * deviation)
        self.shift = -torch.tensor(mean, device=device) / deviation

    def __len__(self) -> int:
        full, left = divmod(self.num_per_epoch, self.batch_size)
        return full + (left > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch: each pass over a training set is one, as in a loop over a `DataLoader`."""
        self.passed += 1
        return self.epoch(self.passed)

    def name(self, index: int) -> str:
        """The name of a sample: its number, or the path of its file."""
        return str(index)

    def picture(self, index: int) -> Image.Image | None:
        """A sample as it is stored, without augmentation; None if it cannot be read."""
        return None

    def preprocessing(self) -> Preprocessing | None:
        """How an image outside the dataset becomes what this loader returns for testing; None if it cannot be said."""
        return None

    @property
    def packages(self) -> set[str]:
        """The packages whose code decodes or augments its images, beside PyTorch and this one."""
        return set()

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def normalised_by(self) -> str:
        """How its images are normalised, in words."""
        return str(self.normalisation)

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    @property
    def num_per_epoch(self) -> int:
        """Samples in an epoch: all, less those that are held out."""
        return self.num_samples - self.num_left_out

    @property
    def last_batch(self) -> int:
        """Samples in the last batch of an epoch, over all processes."""
        return min(self.batch_size, self.num_per_epoch - (len(self) - 1) * self.batch_size)

    def epoch(self, epoch: int = 1, first: int = 0, *, strong: bool = False) -> Iterator[Batch]:
        """The batches of an epoch, starting with number `first`; shuffled and augmented if this is a training set.

        `strong`: also return a strongly augmented view of each sample.
        """
        raise NotImplementedError

    def order(self, epoch: int) -> Tensor:
        """The samples (N,) in the order of an epoch, on the CPU."""
        order = epoch_order(self.num_samples, self.seed, epoch) if self.train else torch.arange(self.num_samples)
        return order if self.kept is None else order[self.kept[order]]

    def only(self, kept: Tensor) -> Self:
        """The same loader, with epochs of the samples where `kept` (N,) is true."""
        other = copy.copy(self)
        other.kept, other.num_left_out = kept, int((~kept).sum())
        return other

    def as_test(self, index: Tensor) -> "Loader":
        """A loader of the samples at `index` (N,) alone, as a test set that every process reads whole."""
        raise NotImplementedError

    def contents(self, index: Tensor | None = None) -> list[str]:
        """The places of the files of samples (N,), by default all; of images in memory, their hashes."""
        raise NotImplementedError

    def shards(self, order: Tensor, epoch: int, first: int) -> Iterator[Shard]:
        """This process's shard of each batch, starting with number `first`."""
        for number in range(first, len(self)):
            whole = order[number * self.batch_size : (number + 1) * self.batch_size]
            own = whole[rank() :: world_size()] if self.sharded else whole
            yield Shard(own, epoch, number + 1, len(whole))

    def normalised(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) float."""
        # A CPU is slow over a last dimension of three, and a product of two types takes memory for both
        rows, width = image.flatten(2).to(self.scale.dtype), image.shape[2]
        rows.mul_(self.scale.repeat(width)).add_(self.shift.repeat(width))
        return rows.view(image.shape).permute(0, 3, 1, 2).contiguous(memory_format=self.layout)


def hashes_of(images: Tensor) -> list[str]:
    """A hash of the values of each image, (N, H, W, 3) uint8."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images.cpu().numpy()]


class Epoch:
    """The batches of one epoch; can be iterated over repeatedly."""

    def __init__(self, loader: Loader, number: int):
        self.loader, self.number = loader, number

    def __iter__(self) -> Iterator[Batch]:
        return self.loader.epoch(self.number)
