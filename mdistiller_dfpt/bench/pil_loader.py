"""The usual loader: torchvision's transforms applied to one PIL image at a time, in `DataLoader` workers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ..data import Data
from ..data.image_files import FileLoader
from ..data.in_memory import InMemoryLoader

MEAN, STD = (0.5,) * 3, (0.25,) * 3
MOST = 8192  # images of an in-memory dataset per epoch, since creating PIL images takes seconds for this many


def pixels(loader: InMemoryLoader) -> np.ndarray:
    """The images of a training set, (N, H, W, 3) uint8, without the padding."""
    pad, (height, width) = loader.recipe.pad, loader.size
    return loader.padded.cpu()[:, pad : pad + height, pad : pad + width].contiguous().numpy()


class _Samples(Dataset):
    """Single images: arrays in memory, or paths."""

    def __init__(self, images: Sequence[Any], labels: torch.Tensor, crop: transforms.Compose):
        self.images, self.labels = images, labels.tolist()
        self.transform = transforms.Compose([*crop.transforms, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        image = self.images[number]
        if isinstance(image, str):
            with Image.open(image) as file:
                decoded = file.convert("RGB")
        else:
            decoded = Image.fromarray(image)
        return self.transform(decoded), self.labels[number]


class PilLoader:
    """The training set of a config, read as in torchvision's reference scripts and in common distillation codebases."""

    def __init__(self, data: Data, batch: int, workers: int):
        loader, flip = data.train, transforms.RandomHorizontalFlip()
        images: Sequence[Any]
        if isinstance(loader, InMemoryLoader):
            images = list(pixels(loader)[:MOST])
            crop = transforms.Compose([transforms.RandomCrop(loader.size, padding=loader.recipe.pad), flip])
        else:
            assert isinstance(loader, FileLoader)
            images = loader.files.paths
            crop = transforms.Compose([transforms.RandomResizedCrop(loader.size), flip])
        self.loader = DataLoader(
            _Samples(images, loader.labels.cpu(), crop), batch, shuffle=True, num_workers=workers,
            persistent_workers=workers > 0,
        )  # fmt: skip

    def load(self, batches: int) -> int:
        """Load at least that many batches of images and discard them; always whole epochs."""
        epochs = -(-batches // len(self.loader))
        return sum(len(target) for _ in range(epochs) for _, target in self.loader)
