"""Peak memory of the training steps of a config, in a separate process."""

import multiprocessing
from pathlib import Path

import torch
from yacs.config import CfgNode as CN

from ..handlers import interrupts_later
from ..interop.plugins import load_plugins, load_published
from ..parent import stop_with_pool
from .workload import Workload


def _peak(cfg: CN, folder: Path, steps: int, answer: "multiprocessing.SimpleQueue") -> None:
    stop_with_pool()
    load_published()
    load_plugins(cfg.PLUGINS)  # a spawned process has not imported them yet
    variant = Workload(cfg, folder)
    on_gpu = variant.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # do not count the peak during construction
    variant.step(steps)
    answer.put(torch.cuda.max_memory_allocated() if on_gpu else _peak_resident())


def _peak_resident() -> int:
    """Peak resident memory in bytes; available on Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def peak_memory(cfg: CN, folder: Path, steps: int = 3) -> int:
    """Bytes: memory allocated on a GPU, or else resident memory in a process that does nothing else."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=_peak, args=(cfg, folder, steps, answer))
    with interrupts_later():
        process.start()
    try:
        process.join()
    finally:  # also where an interrupt ends it
        process.kill()
    if process.exitcode:
        raise RuntimeError(f"the process whose memory was measured ended with {process.exitcode}")
    return answer.get()
