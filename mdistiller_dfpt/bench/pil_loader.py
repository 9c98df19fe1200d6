"""The usual loaders, of one PIL image at a time in `DataLoader` workers: with torchvision's transforms, and timm's."""

from collections.abc import Callable, Sequence
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
    """Single images: arrays in memory, or paths; `transform`: of each."""

    def __init__(self, images: Sequence[Any], labels: torch.Tensor, transform: Callable[[Image.Image], Any] | None):
        self.images, self.labels, self.transform = images, labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        image = self.images[number]
        if isinstance(image, str):
            with Image.open(image) as file:
                decoded = file.convert("RGB")
        else:
            decoded = Image.fromarray(image)
        assert self.transform is not None
        return self.transform(decoded), self.labels[number]


class _Epochs:
    """A `DataLoader` in windows of whole epochs."""

    loader: Any

    def load(self, batches: int) -> int:
        """Load at least that many batches of images and discard them; always whole epochs."""
        epochs = -(-batches // len(self.loader))
        return sum(len(target) for _ in range(epochs) for _, target in self.loader)


class PilLoader(_Epochs):
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
        transform = transforms.Compose([*crop.transforms, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        self.loader = DataLoader(
            _Samples(images, loader.labels.cpu(), transform), batch, shuffle=True, num_workers=workers,
            persistent_workers=workers > 0,
        )  # fmt: skip


class TimmLoader(_Epochs):
    """A training set of image files, read by timm's loader with the same augmentation; ImportError without timm."""

    def __init__(self, data: FileLoader, batch: int, workers: int):
        from timm.data import create_loader

        samples: Any = _Samples(data.files.paths, data.labels.cpu(), None)  # timm sets the transform
        options: dict[str, Any] = {"is_training": True, "interpolation": "bilinear", "color_jitter": None}
        self.loader = create_loader(
            samples, (3, *data.size), batch, mean=MEAN, std=STD, num_workers=workers, persistent_workers=workers > 0,
            pin_memory=False, device=torch.device("cpu"), **options,
        )  # fmt: skip
