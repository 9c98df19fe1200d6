"""Averages over an epoch, accumulated on the device and read without synchronising."""

import torch
from torch import Tensor

from ..distributed import all_reduce


class Meters:
    """Sums named scalars on the device; `read` never synchronises a GPU, `totals` does so once per epoch."""

    def __init__(self, device: torch.device):
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.samples = 0
        self._pending: tuple[Tensor, list[str], int, torch.cuda.Event] | None = None
        self._latest: dict[str, float] = {}

    def update(self, values: dict[str, Tensor], samples: float) -> None:
        """Add a batch's mean values, weighted by its number of samples."""
        for name, value in values.items():
            value = value.detach().float() * samples
            if name in self.sums:
                self.sums[name].add_(value)
            else:
                self.sums[name] = value

    def add_samples(self, samples: int) -> None:
        """Count these samples."""
        self.samples += samples

    def _stacked(self) -> Tensor:
        return torch.stack(list(self.sums.values()))

    def read(self) -> dict[str, float]:
        """Averages so far; on a GPU from the last completed copy, while the next copy is in progress."""
        if not self.sums:
            return {}
        if self.device.type != "cuda":
            return {n: v / self.samples for n, v in zip(self.sums, self._stacked().tolist(), strict=True)}
        if self._pending is not None and self._pending[3].query():
            values, names, count, _ = self._pending
            self._latest = {n: v / count for n, v in zip(names, values.tolist(), strict=True)}
            self._pending = None
        if self._pending is None:
            host = torch.empty(len(self.sums), pin_memory=True)
            host.copy_(self._stacked(), non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending = (host, list(self.sums), self.samples, event)
        return self._latest

    def totals(self) -> dict[str, float]:
        """Averages over all updates of all processes."""
        if not self.sums:
            return {}
        count = torch.tensor([self.samples], dtype=torch.float32, device=self.device)
        *sums, count = all_reduce(torch.cat([self._stacked(), count])).tolist()
        return {n: v / count for n, v in zip(self.sums, sums, strict=True)}
