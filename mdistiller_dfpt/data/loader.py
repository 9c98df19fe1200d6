"""What every loader shares: the order of an epoch, this process's shard of each batch, normalisation on the device."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..distributed import rank, world_size
from .batch import Batch, Shard
from .randomness import epoch_order


class Loader:
    """Batches of a data set. `epoch(e)` gives the batches of epoch e, the same ones whenever it is asked.

    `batch_size` counts the samples of all processes together; each yields every `world_size`-th of a batch, so that
    the order is the same for any number of them.
    """

    augmentation: str  # in words, for the record of a run
    size: tuple[int, int]  # height and width of the images it yields

    def __init__(
        self, labels: Tensor, batch_size: int, *, train: bool, seed: int, device: torch.device | str,
        channels_last: bool, mean: tuple[float, ...], std: tuple[float, ...],
    ):  # fmt: skip
        self.labels = labels.to(device)
        self.batch_size, self.train, self.seed = batch_size, train, seed
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        # (image / 255 - mean) / std as one multiply and add
        deviation = torch.tensor(std, device=device)
        self.scale = 1 / (255 * deviation)
        self.shift = -torch.tensor(mean, device=device) / deviation

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    @property
    def last_batch(self) -> int:
        """Samples in the last batch of an epoch, all processes together."""
        return self.num_samples - (len(self) - 1) * self.batch_size

    def epoch(self, epoch: int = 1, first: int = 0, *, strong: bool = False) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on; shuffled and augmented where this is a training set.

        `strong`: with a strongly augmented view of each sample too.
        """
        raise NotImplementedError

    def order(self, epoch: int) -> Tensor:
        """The samples (N,) in the order in which an epoch visits them, on the CPU."""
        return epoch_order(self.num_samples, self.seed, epoch) if self.train else torch.arange(self.num_samples)

    def shards(self, order: Tensor, epoch: int, first: int) -> Iterator[Shard]:
        """This process's shard of each batch from number `first` on."""
        for number in range(first, len(self)):
            whole = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield Shard(whole[rank() :: world_size()], epoch, number + 1, len(whole))

    def normalised(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) float."""
        image = (image * self.scale).add_(self.shift).permute(0, 3, 1, 2)
        return image.contiguous(memory_format=self.layout)


class Epoch:
    """The batches of one epoch, as often as they are iterated over."""

    def __init__(self, loader: Loader, number: int):
        self.loader, self.number = loader, number

    def __iter__(self) -> Iterator[Batch]:
        return self.loader.epoch(self.number)
