"""The frozen teacher's logits for every discrete view of every training sample, computed once and kept on disk."""

import os
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
from ..regular_files import opened_to_change

CRC_HALVES = 2  # a row ends with its CRC-32, stored in two float16 elements
PASS = 4096  # views per forward pass when a cache is filled


class Logits(Protocol):
    """A source of the frozen network's logits for a batch."""

    def logits(self, batch: Batch, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The logits (B, classes) of a batch with views; `compute` is the network, (B, 3, H, W) -> (B, classes)."""


class LogitsCache:
    """Logits (samples, views, classes) as float16 in a memory-mapped file; filled lazily.

    Crop and flip give few views of an image: 162 at a padding of 4. A row is valid only if its checksum matches, which
    is that of its logits at its place in a file of this name: a truncated or renamed file, blocks in other places, or a
    file that several runs fill at the same time never return wrong values. All logits are read from
    the file, including those just computed, so that a step does not depend on which run filled it.
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
                sizes = f"it needs {missing / 1e6:,.1f} MB more, {free / 1e6:,.1f} MB are free"
                raise ConfigError(f"DISTILLER.LOGITS_CACHE is {folder}; {sizes}")
            # All of it is reserved now: a write to mapped memory that finds no room ends the process by SIGBUS
            with opened_to_change(self.path, size) as file:
                os.posix_fallocate(file.fileno(), 0, size)
            self.rows = np.memmap(self.path, dtype=np.float16, mode="r+", shape=self.shape)
        except OSError as e:
            raise ConfigError(f"DISTILLER.LOGITS_CACHE is {folder}; it cannot be written ({e.strerror})") from None
        self.computed = 0  # rows computed in this process

    @torch.compiler.disable
    def logits(self, batch: Batch, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The teacher's logits (B, classes) for the views of a batch; missing ones are computed by `compute`."""
        image = batch.image
        samples, views = batch.index.cpu().numpy(), _views(batch).cpu().numpy()
        rows = self.rows[samples, views]
        # Compute what is missing, and return it rounded as it is stored
        places = list(zip(samples.tolist(), views.tolist(), strict=True))
        missing = [i for i, place in enumerate(places) if not self._is_whole(place, rows[i])]
        if missing:
            some = [places[i] for i in missing]
            rows[missing] = self._computed(some, image[torch.tensor(missing, device=image.device)], compute)
            self.rows[samples[missing], views[missing]] = rows[missing]
        return torch.from_numpy(rows[:, :-CRC_HALVES].astype(np.float32)).to(image.device, non_blocking=True)

    def fill(
        self, samples: Sequence[int], images_in: Callable[[Tensor, Tensor], Tensor],
        compute: Callable[[Tensor], Tensor], device: torch.device,
    ) -> Iterator[int]:  # fmt: skip
        """Compute the missing rows of these samples; yields the number of samples done.

        `images_in(index, view)` are the images (B, 3, H, W) of samples and views (B,).
        """
        many = max(1, PASS // self.shape[1])
        for start in range(0, len(samples), many):
            # Rows with a wrong checksum count as missing: a write that was cut off leaves such
            some = samples[start : start + many]
            missing = [(s, v) for s in some for v, row in enumerate(self.rows[s]) if not self._is_whole((s, v), row)]
            if missing:
                index, view = torch.tensor(missing, device=device).T
                self.rows[tuple(np.array(missing).T)] = self._computed(missing, images_in(index, view), compute)
            yield start + len(some)

    def whole(self, device: torch.device) -> "FilledCache":
        """This filled cache on the device, so that a step reads it without the host."""
        return FilledCache(torch.from_numpy(self.rows)[:, :, :-CRC_HALVES].to(device))

    def _computed(
        self, places: Sequence[tuple[int, int]], image: Tensor, compute: Callable[[Tensor], Tensor]
    ) -> np.ndarray:  # fmt: skip
        self.computed += len(image)
        with torch.no_grad():
            logits = compute(image).float().cpu().numpy().astype(np.float16)
        sums = np.array([self._checksum(place, row) for place, row in zip(places, logits, strict=True)], np.uint32)
        return np.concatenate([logits, sums[:, None].view(np.float16)], axis=1)

    def _checksum(self, place: tuple[int, int], values: np.ndarray) -> int:
        return zlib.crc32(values.tobytes(), zlib.crc32(f"{self.path.name} {place}".encode()))

    def _is_whole(self, place: tuple[int, int], row: np.ndarray) -> bool:
        return int(row[-CRC_HALVES:].copy().view(np.uint32)[0]) == self._checksum(place, row[:-CRC_HALVES])


class FilledCache:
    """A complete cache of logits (samples, views, classes), float16 on the device."""

    def __init__(self, rows: Tensor):
        self.rows = rows

    def logits(self, batch: Batch, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The teacher's logits (B, classes) for the views of a batch."""
        return self.rows[batch.index, _views(batch)].float()


def _views(batch: Batch) -> Tensor:
    assert batch.view is not None, "in-memory loaders number the views"
    return batch.view
