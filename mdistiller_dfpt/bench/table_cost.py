"""The time that a table takes on several GPUs, from the operations of its cells and a record of `bench`."""

import heapq
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError, kind_and_message
from ..interop.plugins import load_cfg
from ..regular_files import read_json
from ..report.spec import Cell
from .counts import flops_per_image
from .workload import IMAGES, Workload

UNITS = (1, 8, 64)
BATCH = "4"  # images of the step whose operations are counted


class Rate(NamedTuple):
    """What a GPU, or a core, does of a config of this project."""

    gflop_per_second: float
    unit: str
    source: str


def rate_of(path: Path) -> Rate:
    """The rate of the first side of a record: images per second times operations per image; ConfigError if unknown.

    On a CPU, which others may use too, it is that of a core by its own time.
    """
    try:
        record = read_json(path)
        machine = record["machine"]
        by_measure = {row["measure"]: row for row in record["rows"] if row["side"] == "this"}
        timed = by_measure.get("both") or by_measure["step"]
        per = "images_per_second" if machine["gpu"] else "images_per_cpu_second"
        rate = timed[per]["median"] * by_measure["work"]["gflop_per_image"]
        words = " ".join(["--cfg", record["config"], *record["overrides"]])
        hardware = f"{machine['gpu'] or machine['cpu']}, torch {machine['torch']}, commit {machine['commit']}"
    except (OSError, ValueError, KeyError, IndexError, TypeError) as e:
        why = kind_and_message(e)
        raise ConfigError(f"--cost {path}: no record of `bench --what step --json {path.name}` ({why})") from None
    return Rate(rate, "GPU" if machine["gpu"] else "core", f"{path}: {words}; {hardware}")


def gflop_of_run(cell: Cell, opts: Sequence[str]) -> float:
    """Operations of one seed of a cell, from a step on random images and the number of images and epochs."""
    cfg = load_cfg(cell.config, [*cell.overrides, *opts, "SOLVER.BATCH_SIZE", BATCH, "EXPERIMENT.DEVICE", "cpu"])
    if cfg.DATASET.TYPE not in IMAGES:
        raise ConfigError(f"--cost counts tables on {', '.join(IMAGES)}; {cell.row} {cell.column} is on"
                          f" {cfg.DATASET.TYPE}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        work = Workload(cfg, Path(folder))
        per_image = flops_per_image(work.trainer, work.batch) / 1e9
    return per_image * IMAGES[cfg.DATASET.TYPE] * cfg.SOLVER.EPOCHS


def makespan(times: Iterable[float], units: int) -> float:
    """When the last of these runs ends on so many units, which each take the longest that is left."""
    ends = [0.0] * units
    for time in sorted(times, reverse=True):
        heapq.heapreplace(ends, ends[0] + time)
    return max(ends)


def cost_of_table(
    cells: Mapping[Any, Cell], opts: Sequence[str], seeds: int, rate: Rate, say: Callable[[str], None]
) -> str:  # fmt: skip
    """The hours of a table on `UNITS`, as Markdown; `say` is told of each cell that is counted."""
    hours = []
    for number, cell in enumerate(cells.values(), start=1):
        gflop = gflop_of_run(cell, opts)
        hours += [gflop / rate.gflop_per_second / 3600] * seeds
        say(f"[{number}/{len(cells)}] {cell.row} {cell.column}: {gflop / 1e6:,.2f} PFLOP, {hours[-1]:,.2f} h a run")
    lines = [
        f"{len(cells)} cells, {seeds} seeds: {len(hours)} runs of {min(hours):,.2f} to {max(hours):,.2f} h,"
        f" {sum(hours):,.1f} {rate.unit} hours at {rate.gflop_per_second:,.0f} GFLOP/s ({rate.source})",
        "",
        f"| {rate.unit}s | hours |",
        "|---|---|",
        *(f"| {units} | {makespan(hours, units):,.1f} |" for units in UNITS),
    ]
    return "\n".join(lines)
