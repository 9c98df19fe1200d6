"""Turns an out-of-memory error into one line that names the keys to lower."""

import contextlib
from collections.abc import Iterator

from yacs.config import CfgNode as CN

from ..errors import OutOfMemory, in_short, is_out_of_memory


@contextlib.contextmanager
def memory_explained(cfg: CN) -> Iterator[None]:
    """Context in which a failed allocation raises an `OutOfMemory` that names the keys to lower."""
    try:
        yield
    except Exception as e:
        if not is_out_of_memory(e):
            raise
        solver, test = cfg.SOLVER, cfg.DATASET.TEST
        raise OutOfMemory(
            f"out of memory ({in_short(e, 160) or 'no details'}); add `SOLVER.ACCUMULATE {2 * solver.ACCUMULATE}`, "
            f"which keeps the batch of {solver.BATCH_SIZE}, or lower DATASET.TEST.BATCH_SIZE (now {test.BATCH_SIZE}); "
            "what is saved is untouched, continue with --resume auto"
        ) from None
