"""Averages over an epoch, accumulated on the device and read without synchronising."""

import torch
from torch import Tensor

from ..distributed import all_reduce, of_all_processes


class Meters:
    """Sums named scalars on the device; `read` never synchronises a GPU, `totals` does so once per epoch."""

    def __init__(self, device: torch.device):
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}  # samples that each average is over; a value may be missing in some steps
        self._pending: tuple[Tensor, dict[str, float], torch.cuda.Event] | None = None
        self._latest: dict[str, float] = {}

    def update(self, values: dict[str, Tensor], samples: float) -> None:
        """Add a batch's mean values, weighted by its number of samples."""
        for name, value in values.items():
            self.counts[name] = self.counts.get(name, 0) + samples
            value = value.detach().float() * samples
            if name in self.sums:
                self.sums[name].add_(value)
            else:
                self.sums[name] = value

    def _stacked(self) -> Tensor:
        return torch.stack(list(self.sums.values()))

    def read(self) -> dict[str, float]:
        """Averages so far; on a GPU from the last completed copy, while the next copy is in progress."""
        if not self.sums:
            return {}
        if self.device.type != "cuda":
            return {n: v / self.counts[n] for n, v in zip(self.sums, self._stacked().tolist(), strict=True)}
        # Take the last copy if it has arrived
        if self._pending is not None and self._pending[2].query():
            values, counts, _ = self._pending
            self._latest = {n: v / c for (n, c), v in zip(counts.items(), values.tolist(), strict=True)}
            self._pending = None
        # Start the next one, into pinned memory so that it does not block
        if self._pending is None:
            host = torch.empty(len(self.sums), pin_memory=True)
            host.copy_(self._stacked(), non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending = (host, {name: self.counts[name] for name in self.sums}, event)
        return self._latest

    def totals(self) -> dict[str, float]:
        """Averages over all updates of all processes."""
        # Processes may log in another order, and not the same names
        names = list(dict.fromkeys(name for part in of_all_processes(list(self.sums)) for name in part))
        if not names:
            return {}
        zero = torch.zeros((), device=self.device)
        sums = torch.stack([self.sums.get(name, zero) for name in names])
        counts = torch.tensor([self.counts.get(name, 0) for name in names], dtype=torch.float64, device=self.device)
        totals, samples = all_reduce(sums).tolist(), all_reduce(counts).tolist()
        return {name: total / count for name, total, count in zip(names, totals, samples, strict=True)}
