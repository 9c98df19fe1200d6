"""Alternating timing windows of several variants, and their medians: machines are noisy, and their load changes."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

Timed = Callable[[], int]
"""Does the work of one window and returns the number of images."""


class Window(NamedTuple):
    """One window: number of images, wall-clock seconds, CPU seconds of this process and its workers."""

    images: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    @property
    def rate_per_cpu(self) -> float:
        """Images per CPU-second."""
        return self.images / self.cpu if self.cpu else float("nan")


class Spread(NamedTuple):
    """Median, minimum and maximum over the windows of a variant."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of these values."""
        return cls(statistics.median(values), min(values), max(values))


def cpu_seconds() -> float:
    """CPU time of this process and of its live worker processes."""
    total, ticks = time.process_time(), os.sysconf("SC_CLK_TCK")
    tasks = Path("/proc/self/task")
    for children in tasks.glob("*/children") if tasks.is_dir() else ():
        for pid in children.read_text(encoding="ascii").split():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            except OSError:  # the worker has just exited
                continue
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def window(work: Timed) -> Window:
    """Times one call of `work`; a GPU is synchronised before and after, but not in between."""
    _settle()
    cpu, start = cpu_seconds(), time.perf_counter()
    images = work()
    _settle()
    return Window(images, time.perf_counter() - start, cpu_seconds() - cpu)


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turns(variants: Mapping[str, Timed], windows: int) -> dict[str, list[Window]]:
    """`windows` windows of each variant, in the order A B, B A, A B, ...: drift affects all variants equally."""
    names = list(variants)
    done: dict[str, list[Window]] = {name: [] for name in names}
    for turn in range(windows):
        for name in names if turn % 2 == 0 else reversed(names):
            done[name].append(window(variants[name]))
    return done


def ratio(first: Sequence[Window], second: Sequence[Window]) -> Spread:
    """The speed-up of the second variant, window by window, in images per CPU-second."""
    return Spread.of([b.rate_per_cpu / a.rate_per_cpu for a, b in zip(first, second, strict=True)])
