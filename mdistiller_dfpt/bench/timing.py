"""Windows of time, in turns between sides, and their medians: machines are noisy, and neighbours come and go."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

Work = Callable[[], int]
"""Does a window's worth of work and returns the number of images."""


class Window(NamedTuple):
    """One window: images done, seconds on the wall, seconds of CPU in this process and its workers."""

    images: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def rate_per_cpu(self) -> float:
        """Images a second of CPU."""
        return self.images / self.cpu if self.cpu else float("nan")


class Spread(NamedTuple):
    """Median, smallest and largest of the windows of a side."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """That of these values."""
        return cls(statistics.median(values), min(values), max(values))


def cpu_seconds() -> float:
    """CPU time of this process and of the workers that it started and that are alive."""
    total, ticks = time.process_time(), os.sysconf("SC_CLK_TCK")
    tasks = Path("/proc/self/task")
    for children in tasks.glob("*/children") if tasks.is_dir() else ():
        for pid in children.read_text(encoding="ascii").split():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            except OSError:  # it ended meanwhile
                continue
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def window(work: Work) -> Window:
    """Time one call of `work`; a GPU is waited for at both ends, and nowhere between."""
    _settle()
    cpu, start = cpu_seconds(), time.perf_counter()
    images = work()
    _settle()
    return Window(images, time.perf_counter() - start, cpu_seconds() - cpu)


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turns(sides: Mapping[str, Work], windows: int) -> dict[str, list[Window]]:
    """`windows` windows of each side, in the order A B, B A, A B, ...: what drifts meets all alike."""
    names = list(sides)
    done: dict[str, list[Window]] = {name: [] for name in names}
    for turn in range(windows):
        for name in names if turn % 2 == 0 else reversed(names):
            done[name].append(window(sides[name]))
    return done


def ratio(first: Sequence[Window], second: Sequence[Window]) -> Spread:
    """How much faster the second side is, turn by turn, in images a CPU-second."""
    return Spread.of([b.rate_per_cpu / a.rate_per_cpu for a, b in zip(first, second, strict=True)])
