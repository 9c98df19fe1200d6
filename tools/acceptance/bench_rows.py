"""Rates of the device alone, and of the steps of DFPT-KD and of what it is compared with."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mdistiller_dfpt.bench.measure import BenchPlan, measured
from mdistiller_dfpt.bench.timing import window

from .plan import Plan

DEVICE = "device"
WHAT = ("step", "both")  # one batch in the device's memory; all images there, and the loader's work
REPEATED = 1000
TIMED = 0.5  # the share of the time that windows take; the rest is for networks, warming up and compilation
SHORTEST, LONGEST = 0.05, 2.0  # seconds of a window


def pieces(plan: Plan, seconds: float, folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """{name: its measurement}: the device, then each config at each batch size, in windows that fit in the time."""
    rows = [(cfg, batch) for batch in plan.batches for cfg in plan.bench_cfgs]
    windows = len(rows) * (1 + len(plan.variants)) * len(WHAT) * plan.windows
    length = min(max(TIMED * seconds / windows, SHORTEST), LONGEST)
    found: dict[str, Callable[[], dict[str, Any]]] = {DEVICE: partial(rates, torch.device(plan.device), plan.matrix)}
    for cfg, batch in rows:
        words = ("EXPERIMENT.DEVICE", plan.device, "SOLVER.BATCH_SIZE", str(batch))
        one = BenchPlan(cfg, words, plan.variants, what=WHAT, windows=plan.windows, seconds=length)
        found[f"{cfg}, batch size {batch}"] = partial(_row, one, folder)
    return found


def _row(plan: BenchPlan, folder: Path) -> dict[str, Any]:
    # The next row is of other shapes, and keeps none of these graphs
    torch.compiler.reset()
    return {"window_seconds": round(plan.seconds, 3), "rows": measured(plan, folder / "bench")["rows"]}


def rates(device: torch.device, size: int) -> dict[str, Any]:
    """FLOP/s of products of two square matrices in bfloat16, and bytes/s (read and written) of copies as large."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(a)

    def products() -> int:
        for _ in range(REPEATED):
            torch.mm(a, b, out=target)
        return REPEATED

    def copies() -> int:
        for _ in range(REPEATED):
            target.copy_(a)
        return REPEATED

    found = {}
    for name, work, amount in (
        ("matmul_flop_per_second", products, 2 * size**3),
        ("copy_bytes_per_second", copies, 2 * a.numel() * a.element_size()),
    ):
        work()
        found[name] = amount * window(work).rate
    return {"matrix": size, **found}
