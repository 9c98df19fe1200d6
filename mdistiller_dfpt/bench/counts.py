"""Costs that do not depend on the machine: FLOPs, operators, device-to-host reads."""

import warnings
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..data import Batch
from ..training.loop import take_step
from ..training.trainer import Trainer

_VIEWS = ("view", "reshape", "expand", "transpose", "permute", "slice", "select", "detach", "unsqueeze", "squeeze",
          "split", "as_strided", "alias", "t.", "unbind")  # fmt: skip
OF_A_WAIT = "called a synchronizing CUDA operation"
"""What PyTorch says of each with `torch.cuda.set_sync_debug_mode("warn")`."""


class CountOperators(TorchDispatchMode):
    """Counts operators that compute, and among them device-to-host reads, each of which synchronises a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        self.reads += "_local_scalar_dense" in name
        self.operators += not name.startswith(_VIEWS)
        return func(*args, **(kwargs or {}))


def flops_per_image(trainer: Trainer, batch: Batch) -> float:
    """FLOPs (two per multiply-accumulate) of a training step, forward and backward, per image.

    PyTorch's counter overestimates the backward pass of grouped convolutions; for networks that have them, the count is
    an upper bound.
    """
    with FlopCounterMode(display=False) as counter:
        take_step(trainer.training, batch)
    return counter.get_total_flops() / len(batch.target)


def operators_per_step(trainer: Trainer, batch: Batch) -> tuple[int, int]:
    """(operators, device-to-host reads) of a training step after the first, which also creates the momentum buffers."""
    take_step(trainer.training, batch)
    with CountOperators() as counter:
        take_step(trainer.training, batch)
    # On a CPU a step reads once whether the loss is finite, at no cost; on a GPU the optimiser checks it on the device
    return counter.operators, max(0, counter.reads - (trainer.training.device.type == "cpu"))


def waits_per_step(trainer: Trainer, batch: Batch) -> int | None:
    """How often a training step after the first waits for the GPU; None on a CPU.

    As far as `torch.cuda.set_sync_debug_mode` knows: it covers neither torch.distributed nor torch.sparse.
    """
    if trainer.training.device.type != "cuda":
        return None
    take_step(trainer.training, batch)
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")  # by default, a line of code warns once
        torch.cuda.set_sync_debug_mode("warn")
        try:
            take_step(trainer.training, batch)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum(OF_A_WAIT in str(warning.message) for warning in said)
