"""Work that does not depend on the machine: FLOPs, operators, reads from the device."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..data import Batch
from ..training.loop import take_step
from ..training.trainer import Trainer

_VIEWS = ("view", "reshape", "expand", "transpose", "permute", "slice", "select", "detach", "unsqueeze", "squeeze",
          "split", "as_strided", "alias", "t.", "unbind")  # fmt: skip


class CountOperators(TorchDispatchMode):
    """Counts operators that do work, and among them reads from the device, for each of which a GPU is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        self.reads += "_local_scalar_dense" in name
        self.operators += not name.startswith(_VIEWS)
        return func(*args, **(kwargs or {}))


def flops_per_image(trainer: Trainer, batch: Batch) -> float:
    """FLOPs (two a multiply-accumulate) of a training step, forward and backward, an image.

    PyTorch's counter counts the backward pass of grouped convolutions too high, so it is an upper bound where a network
    has some.
    """
    with FlopCounterMode(display=False) as counter:
        take_step(trainer.training, batch)
    return counter.get_total_flops() / len(batch.target)


def operators_per_step(trainer: Trainer, batch: Batch) -> tuple[int, int]:
    """(operators, reads from the device) of a training step behind the first, which also makes the momenta."""
    take_step(trainer.training, batch)
    with CountOperators() as counter:
        take_step(trainer.training, batch)
    # Each reads once on a CPU, where it costs nothing, whether the loss is finite; a GPU's optimiser does it instead
    return counter.operators, max(0, counter.reads - (trainer.training.device.type == "cpu"))
