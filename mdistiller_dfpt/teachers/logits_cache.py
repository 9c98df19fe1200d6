"""The frozen teacher's logits for every discrete view of every training sample, computed once and kept on disk."""

import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..data import Batch
from ..errors import ConfigError

CRC_HALVES = 2  # a row ends with its CRC-32, as two float16 numbers' bytes
PASS = 4096  # views that the teacher sees at once where a cache is filled


class Logits(Protocol):
    """What gives the frozen network's logits of a batch in its place."""

    def logits(self, batch: Batch, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The logits (B, classes) of a batch with views; `compute` is the network, (B, 3, H, W) -> (B, classes)."""


class LogitsCache:
    """Logits (samples, views, classes) as float16 in a file that is mapped into memory; filled as they are asked for.

    Crop and flip of a recipe give few views of an image: 162 at a padding of 4. A row counts once its checksum is
    right, so that a file that was cut off, or that several runs fill at once, never gives a wrong number. All logits
    come from the file, those that were computed just now too, so that a step does not depend on who filled it.
    """

    def __init__(self, folder: Path, key: str, samples: int, views: int, classes: int):
        self.path = folder / f"{key}.f16"
        self.shape = (samples, views, classes + CRC_HALVES)
        size = 2 * samples * views * (classes + CRC_HALVES)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            missing = size - (self.path.stat().st_blocks * 512 if self.path.exists() else 0)
            free = shutil.disk_usage(folder).free
            if missing > free:
                sizes = f"it takes {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
                raise ConfigError(f"DISTILLER.LOGITS_CACHE is {folder}; {sizes}")
            with open(self.path, "ab") as f:
                f.truncate(size)
            self.rows = np.memmap(self.path, dtype=np.float16, mode="r+", shape=self.shape)
        except OSError as e:
            raise ConfigError(f"DISTILLER.LOGITS_CACHE is {folder}; it cannot be written ({e.strerror})") from None
        self.computed = 0  # rows that were not there yet

    def logits(self, batch: Batch, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The teacher's logits (B, classes) of a batch's views; `compute` is asked for those that are not here yet."""
        image = batch.image
        samples, views = batch.index.cpu().numpy(), _views(batch).cpu().numpy()
        rows = self.rows[samples, views]
        missing = [i for i, row in enumerate(rows) if not _is_whole(row)]
        if missing:
            rows[missing] = self._computed(image[torch.tensor(missing, device=image.device)], compute)
            self.rows[samples[missing], views[missing]] = rows[missing]
        return torch.from_numpy(rows[:, :-CRC_HALVES].astype(np.float32)).to(image.device, non_blocking=True)

    def fill(
        self, samples: Sequence[int], images_in: Callable[[Tensor, Tensor], Tensor],
        compute: Callable[[Tensor], Tensor], device: torch.device,
    ) -> Iterator[int]:  # fmt: skip
        """Compute what is missing of these samples; how many of them are behind it, now and then.

        `images_in(index, view)` are the images (B, 3, H, W) of samples and views (B,).
        """
        many = max(1, PASS // self.shape[1])
        for start in range(0, len(samples), many):
            some = samples[start : start + many]
            missing = [(s, v) for s in some for v, row in enumerate(self.rows[s]) if not _is_whole(row)]
            if missing:
                index, view = torch.tensor(missing, device=device).T
                self.rows[tuple(np.array(missing).T)] = self._computed(images_in(index, view), compute)
            yield start + len(some)

    def whole(self, device: torch.device) -> "FilledCache":
        """This cache, filled, where a step reads it without the host."""
        return FilledCache(torch.from_numpy(self.rows)[:, :, :-CRC_HALVES].to(device))

    def _computed(self, image: Tensor, compute: Callable[[Tensor], Tensor]) -> np.ndarray:
        self.computed += len(image)
        with torch.no_grad():
            logits = compute(image).float().cpu().numpy().astype(np.float16)
        sums = np.array([_checksum(row) for row in logits], np.uint32)
        return np.concatenate([logits, sums[:, None].view(np.float16)], axis=1)


class FilledCache:
    """Logits (samples, views, classes) float16 on the device, none of them missing."""

    def __init__(self, rows: Tensor):
        self.rows = rows

    def logits(self, batch: Batch, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The teacher's logits (B, classes) of a batch's views."""
        return self.rows[batch.index, _views(batch)].float()


def _views(batch: Batch) -> Tensor:
    assert batch.view is not None, "a loader of images in memory numbers the views"
    return batch.view


def _checksum(values: np.ndarray) -> int:
    return zlib.crc32(values.tobytes())


def _is_whole(row: np.ndarray) -> bool:
    return int(row[-CRC_HALVES:].copy().view(np.uint32)[0]) == _checksum(row[:-CRC_HALVES])
