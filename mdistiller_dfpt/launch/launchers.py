"""Where jobs run: on this machine, one on each of its GPUs, or in the queue of a cluster."""

import argparse
import contextlib
import os
import queue
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch

from ..errors import ConfigError
from .processes import Handle, Process, start
from .submitted import InProcesses, InSlurm

LAUNCHERS = {
    "local": ("jobs",),
    "torchrun": ("gpus",),
    "submitit": ("jobs", "slurm"),
    "submitit-local": ("jobs", "slurm"),
}
"""The launchers, and the options of each."""
QUEUES = {"submitit": InSlurm, "submitit-local": InProcesses}
OPTIONS = ("jobs", "gpus", "slurm")
JOBS = {"local": 1, "submitit": 100, "submitit-local": 1}


class Launcher(Protocol):
    """Starts jobs, as many at a time as `parallel` says."""

    @property
    def parallel(self) -> int:
        """How many jobs it has room for."""

    def started(self, command: Sequence[str], log: Path) -> AbstractContextManager[Handle]:
        """Context of a command that appends to this log; a `UserError` if none can be started."""


class Local:
    """Processes of this machine, `parallel` at a time; with `gpus`, as CUDA names them, one on each of them."""

    def __init__(self, parallel: int = 1, gpus: Sequence[str] = ()):
        self.parallel = len(gpus) or parallel
        self._free: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._has_gpus = bool(gpus)
        for gpu in gpus:
            self._free.put(gpu)

    @contextlib.contextmanager
    def started(self, command: Sequence[str], log: Path) -> Iterator[Process]:
        """As of `Launcher`."""
        if not self._has_gpus:
            yield start(command, log)
            return
        gpu = self._free.get()
        try:
            yield start(command, log, CUDA_VISIBLE_DEVICES=gpu)
        finally:
            self._free.put(gpu)


def add_launcher(parser: argparse.ArgumentParser, names: Sequence[str], what: str) -> None:
    """Add --launcher with these names and the options of each; `what`: what its jobs are."""
    kinds = {
        "local": "processes of this machine, the default", "torchrun": f"one {what} on each GPU of this machine",
        "submitit": "jobs in the queue of SLURM", "submitit-local": "the same without SLURM, to try it",
    }  # fmt: skip
    parser.add_argument("--launcher", choices=names, help=". ".join(f"{name}: {kinds[name]}" for name in names))
    defaults = ", ".join(f"{JOBS[name]} with {name}" for name in names if name in JOBS)
    parser.add_argument("--jobs", type=int, metavar="N", help=f"{what}s at a time; default: {defaults}")
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs of --launcher torchrun; default: all")
    if "submitit" in names:
        parser.add_argument(
            "--slurm", action="append", metavar="KEY=VALUE", help="an option of sbatch, such as partition=gpu or"
            " gpus-per-node=1; may be repeated. time=MINUTES is needed",
        )  # fmt: skip


def local_launcher(args: argparse.Namespace) -> Local:
    """The launcher on this machine that the options name; ConfigError if they do not fit."""
    name = args.launcher or "local"
    _check_options(args, name)
    return Local(gpus=_gpus(args.gpus)) if name == "torchrun" else Local(args.jobs or JOBS[name])


def launcher_of(args: argparse.Namespace, folder: Path) -> Launcher:
    """The launcher that the options name; `folder`: of the files of submitit. ConfigError if they do not fit."""
    name = args.launcher or "local"
    if name not in QUEUES:
        return local_launcher(args)
    _check_options(args, name)
    return QUEUES[name](folder, args.jobs or JOBS[name], args.slurm or [])


def _check_options(args: argparse.Namespace, name: str) -> None:
    if unused := [f"--{o}" for o in OPTIONS if o not in LAUNCHERS[name] and getattr(args, o, None) is not None]:
        raise ConfigError(f"{', '.join(unused)} with --launcher {name}, which has"
                          f" {', '.join(f'--{option}' for option in LAUNCHERS[name])}")  # fmt: skip
    for option in ("jobs", "gpus"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise ConfigError(f"--{option} is {value}; it must be at least 1")


def _gpus(asked: int | None) -> list[str]:
    """The first GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them, so many or all."""
    count = torch.cuda.device_count()
    if count == 0 or (asked or 0) > count:
        there = f"{count} GPUs here" if count else "no GPU here"
        raise ConfigError(f"--launcher torchrun: {there}{f', and --gpus is {asked}' if asked else ''}; without it,"
                          " --jobs N trains on what there is")  # fmt: skip
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(number) for number in range(count)])[: asked or count]
