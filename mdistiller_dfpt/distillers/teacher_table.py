"""The frozen teacher's logits for every discrete view of every training sample, computed once and kept on disk."""

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError

CRC_HALVES = 2  # a row ends with its CRC-32, as two float16 numbers' bytes


class TeacherTable:
    """Logits (samples, views, classes) as float16 in a file that is mapped into memory; filled as they are asked for.

    Crop and flip of a recipe give few views of an image: 162 at a padding of 4. A row counts once its checksum is
    right, so that a file that was cut off, or that several runs fill at once, never gives a wrong number. All logits
    come from the table, those that were computed just now too, so that a step does not depend on who filled it.
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
                sizes = f"the table takes {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
                raise ConfigError(f"DISTILLER.TEACHER_TABLE is {folder}; {sizes}")
            with open(self.path, "ab") as f:
                f.truncate(size)
            self.rows = np.memmap(self.path, dtype=np.float16, mode="r+", shape=self.shape)
        except OSError as e:
            raise ConfigError(f"DISTILLER.TEACHER_TABLE is {folder}; it cannot be written ({e.strerror})") from None
        self.computed = 0  # rows that were not there yet

    def logits(self, image: Tensor, index: Tensor, view: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The teacher's logits (B, classes) of these views (B, 3, H, W); `compute` is asked for those not here yet."""
        samples, views = index.cpu().numpy(), view.cpu().numpy()
        rows = self.rows[samples, views]
        missing = [i for i, row in enumerate(rows) if not _is_whole(row)]
        if missing:
            where = torch.tensor(missing, device=image.device)
            with torch.no_grad():
                logits = compute(image[where]).float().cpu().numpy().astype(np.float16)
            for i, values in zip(missing, logits, strict=True):
                rows[i] = _with_checksum(values)
            self.rows[samples[missing], views[missing]] = rows[missing]
            self.computed += len(missing)
        return torch.from_numpy(rows[:, :-CRC_HALVES].astype(np.float32)).to(image.device, non_blocking=True)


def _checksum(values: np.ndarray) -> int:
    return zlib.crc32(values.tobytes())


def _with_checksum(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, np.array([_checksum(values)], np.uint32).view(np.float16)])


def _is_whole(row: np.ndarray) -> bool:
    return int(row[-CRC_HALVES:].copy().view(np.uint32)[0]) == _checksum(row[:-CRC_HALVES])
