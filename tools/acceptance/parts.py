"""The parts of an acceptance, each run in a process of its own, piece by piece."""

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision

from mdistiller_dfpt.bench.measure import machine

from . import bench_rows, gpu_tests, processes, smoke_runs, training
from .plan import Plan
from .record import Record


@dataclass(frozen=True)
class Settings:
    """What a part is given: its plan, the folder for what it writes, its time, and the settings of the training run."""

    plan: Plan
    folder: Path
    seconds: float
    data: Path | None
    opts: Sequence[str]


PARTS: dict[str, Callable[[Record, Any], None]] = {
    "tests": lambda record, s: gpu_tests.run(record, s.folder, torch.device(s.plan.device)),
    "smoke": lambda record, s: record.run("smoke", smoke_runs.pieces(s.plan)),
    "bench": lambda record, s: record.run("bench", bench_rows.pieces(s.plan, s.seconds, s.folder)),
    "processes": lambda record, s: record.run("processes", processes.pieces(s.plan.device, s.folder)),
    "training": lambda record, s: record.run("training", training.pieces(s.plan, s.folder, s.data, s.opts)),
}


def run_part(name: str, settings: Settings) -> None:
    """Run what is missing of a part, and record it; an exception ends it after a piece that failed."""
    record = Record(settings.folder)
    if not record.data["calls"][-1]["machine"]:
        record.set_machine(described())
    PARTS[name](record, settings)


def described() -> dict[str, Any]:
    """The hardware, the driver and the software of this machine, and the commit."""
    found = {**machine(), "torchvision": torchvision.__version__, "cuda": torch.version.cuda or "", "driver": _driver()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu_memory_bytes"] = properties.total_memory
        found["compute_capability"] = f"{properties.major}.{properties.minor}"
        found["cudnn"] = torch.backends.cudnn.version()
        found["convolutions_in_tf32"] = torch.backends.cudnn.allow_tf32
    return found


def _driver() -> str:
    """The version of NVIDIA's driver; empty without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=os.environ)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout.splitlines() or [""])[0].strip()
