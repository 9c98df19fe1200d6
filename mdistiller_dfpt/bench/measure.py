"""Times the variants of a comparison alternately and counts their operations; everything goes into one record."""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.image_files import FileLoader
from ..environment import name_of_cpu
from ..interop.plugins import load_cfg
from ..runs.results import commit
from .counts import flops_per_image, operators_per_step, waits_per_step
from .mdistiller import Mdistiller
from .memory import peak_memory
from .parity import refuse_unlike
from .pil_loader import PilLoader, TimmLoader
from .timing import Spread, in_turns, ratio, window
from .workload import Workload

Steps = Callable[[int], int]
"""Takes so many steps and returns the number of images."""
MEASURES = ("loader", "step", "both", "memory")


@dataclass(frozen=True)
class BenchPlan:
    """What to measure: a config, the variants it is compared with, the measures, the duration."""

    cfg: str
    overrides: Sequence[str] = ()
    versus: Sequence[str] = ()  # overrides of further variants, one string each
    against: Path | None = None  # a checkout of mdistiller
    real_images: bool = False  # of the config's dataset, instead of generated ones
    what: Sequence[str] = MEASURES
    windows: int = 5
    seconds: float = 2.0


def measured(plan: BenchPlan, folder: Path) -> dict[str, Any]:
    """The record of a plan; the images of a file-based dataset are written to `folder`."""
    cfgs = {"this": load_cfg(plan.cfg, plan.overrides)}
    cfgs |= {words: load_cfg(plan.cfg, [*plan.overrides, *words.split()]) for words in plan.versus}
    numbered = enumerate(cfgs.items())
    variants = {name: Workload(cfg, folder / str(i), plan.real_images) for i, (name, cfg) in numbered}
    first = variants["this"]
    rows: list[dict[str, Any]] = []
    if "loader" in plan.what:
        timed: dict[str, Steps] = {name: loader.load for name, loader in _usual_loaders(first).items()}
        timed |= {name: variant.load for name, variant in variants.items()}
        rows += _timed(plan, "loader", timed, first)
    sides: dict[str, Mdistiller | Workload] = {**_peers(plan, first, folder / "mdistiller"), **variants}
    if "step" in plan.what:
        timed = {name: side.step for name, side in sides.items()}
        rows += _timed(plan, "step", timed, first)
        # Counted operator by operator, as a compiled step does not run
        rows += [_counted(name, variant) for name, variant in variants.items() if not variant.cfg.SOLVER.COMPILE]
        waits = {name: waits_per_step(variant.trainer, variant.batch) for name, variant in variants.items()}
        rows += [
            {"measure": "waits", "side": name, "waits_per_step": count}
            for name, count in waits.items()
            if count is not None
        ]
    if "both" in plan.what:
        rows += _timed(plan, "both", {name: side.both for name, side in sides.items()}, first)
    if "memory" in plan.what:
        rows += [
            {"measure": "memory", "side": name, "bytes": peak_memory(cfg, folder / "memory")}
            for name, cfg in cfgs.items()
        ]
    record = {"machine": machine(), "config": plan.cfg, "overrides": list(plan.overrides)}
    record["images"] = "of the dataset" if plan.real_images else "generated"
    if plan.against is not None:
        record["against"] = commit(plan.against.resolve(), "mdistiller")
    return {**record, "rows": rows}


def machine() -> dict[str, Any]:
    """The hardware and software that the numbers were measured on."""
    return {
        "cpu": name_of_cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "", "torch": torch.__version__,
        "commit": commit(),
    }  # fmt: skip


def _usual_loaders(first: Workload) -> dict[str, PilLoader | TimmLoader]:
    """Loaders of others for the same images; timm's is for image files, and left out where timm is not installed."""
    data, batch, workers = first.data.train, first.cfg.SOLVER.BATCH_SIZE, first.cfg.DATASET.NUM_WORKERS
    loaders: dict[str, PilLoader | TimmLoader] = {"DataLoader of PIL images": PilLoader(first.data, batch, workers)}
    if isinstance(data, FileLoader):
        with contextlib.suppress(ModuleNotFoundError):
            loaders["timm's loader"] = TimmLoader(data, batch, workers)
    return loaders


def _peers(plan: BenchPlan, first: Workload, folder: Path) -> dict[str, Mdistiller]:
    """Implementations other than this project's, which compute the same as the first variant."""
    if plan.against is None:
        return {}
    peer = Mdistiller(plan.against, first, folder)
    refuse_unlike(peer)
    if "both" in plan.what:
        peer.prepare_iterations()
    return {"mdistiller": peer}


def _timed(plan: BenchPlan, measure: str, timed: dict[str, Steps], first: Workload) -> list[dict[str, Any]]:
    batch = first.cfg.SOLVER.BATCH_SIZE
    done = in_turns({name: _sized(steps, batch, plan.seconds) for name, steps in timed.items()}, plan.windows)
    reference = next(iter(done.values()))
    return [
        {
            "measure": measure, "side": name,
            "images_per_second": Spread.of([w.rate for w in windows])._asdict(),
            "images_per_cpu_second": Spread.of([w.rate_per_cpu for w in windows])._asdict(),
            "times_the_first": ratio(reference, windows)._asdict(),
        }
        for name, windows in done.items()
    ]  # fmt: skip


def _sized(steps: Steps, batch: int, seconds: float) -> Callable[[], int]:
    """One window: as many batches as take about that many seconds, at least one, after a warm-up."""
    steps(1)
    tried = window(functools.partial(steps, 1))
    return functools.partial(steps, max(1, round(seconds * tried.rate / batch)))


def _counted(name: str, variant: Workload) -> dict[str, Any]:
    trainer = variant.trainer
    operators, reads = operators_per_step(trainer, variant.batch)
    return {
        "measure": "work", "side": name, "gflop_per_image": flops_per_image(trainer, variant.batch) / 1e9,
        "operators_per_step": operators, "reads_per_step": reads,
    }  # fmt: skip
