"""Turns an out-of-memory error into one line that names the keys to lower."""

import contextlib
from collections.abc import Iterator

import torch
from yacs.config import CfgNode as CN

from ..errors import UserError

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


class OutOfMemory(UserError):
    """The host or the device has too little memory for this config."""

    exit_code = 1


@contextlib.contextmanager
def memory_explained(cfg: CN) -> Iterator[None]:
    """Context in which a failed allocation raises an `OutOfMemory` that names the keys to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as e:  # PyTorch raises its own type on a GPU, a plain RuntimeError on a CPU
        reason = " ".join(str(e).split())
        exhausted = isinstance(e, MemoryError | torch.OutOfMemoryError) or any(s in reason for s in _SIGNS)
        if not exhausted:
            raise
        solver, test = cfg.SOLVER, cfg.DATASET.TEST
        raise OutOfMemory(
            f"out of memory ({reason[:160] or 'no details'}); add `SOLVER.ACCUMULATE {2 * solver.ACCUMULATE}`, "
            f"which keeps the batch of {solver.BATCH_SIZE}, or lower DATASET.TEST.BATCH_SIZE (now {test.BATCH_SIZE}); "
            "the last checkpoint is untouched, continue with --resume"
        ) from None
