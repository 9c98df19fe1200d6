"""The usual loader: torchvision's transforms of one PIL image after another, in `DataLoader` workers."""

import itertools
from collections.abc import Iterator

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ..data import Data


class _Images(Dataset):
    def __init__(self, images: torch.Tensor, labels: torch.Tensor, pad: int):
        self.images, self.labels = images.numpy(), labels.tolist()
        self.transform = transforms.Compose([
            transforms.RandomCrop(images.shape[1], padding=pad), transforms.RandomHorizontalFlip(),
            transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class UsualLoader:
    """The training set of a config whose images lie in memory, read as the field's codebases read it."""

    def __init__(self, data: Data, batch: int, workers: int):
        loader = data.train
        pad = loader.recipe.pad
        images = loader.padded.cpu()[:, pad : pad + loader.size[0], pad : pad + loader.size[1]].contiguous()
        self.loader = DataLoader(
            _Images(images, loader.labels.cpu(), pad), batch, shuffle=True, num_workers=workers,
            persistent_workers=workers > 0,
        )  # fmt: skip
        self._stream: Iterator | None = None

    def load(self, batches: int) -> int:
        """Batches of images, and nothing done with them."""
        if self._stream is None:
            self._stream = itertools.chain.from_iterable(self.loader for _ in itertools.count())
        return sum(len(target) for _, target in itertools.islice(self._stream, batches))
