"""The device of a process, and communication between the processes of a run; a single process gets its input back."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from .errors import ConfigError

T = TypeVar("T")


def pick_device(name: str) -> torch.device:
    """EXPERIMENT.DEVICE as a device; ConfigError if it names a GPU that does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # torchrun starts one process per GPU
    try:
        device = torch.device(name)
    except RuntimeError:  # an index of more than 8 bits
        raise ConfigError(f"EXPERIMENT.DEVICE is {name[:80]}; there is no such device: use auto or cpu") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(
            f"EXPERIMENT.DEVICE is {name}; {torch.cuda.device_count()} CUDA devices here: use auto or cpu"
        )
    return device


def num_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def world_size() -> int:
    """The number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; only rank 0 writes files."""
    return dist.get_rank() if world_size() > 1 else 0


def all_reduce(x: Tensor) -> Tensor:
    """The sum of the processes' tensors; no gradient passes through."""
    if world_size() == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def of_all_processes(value: T) -> list[T]:
    """The value of each process, by rank, on all processes."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


class _Gather(torch.autograd.Function):
    """Gathers the rows of all processes in the order of the full batch; the backward pass sums their gradients.

    Sample i of a batch is on process i mod world size, as distributed by the loaders.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, total: int) -> Tensor:
        world, ctx.own = world_size(), len(x)
        most = -(-total // world)
        padded = x.new_zeros((most, *x.shape[1:]))
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, 1).flatten(0, 1)[:total].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[rank() :: world_size()][: ctx.own], None


def all_gather(x: Tensor, total: int | None = None) -> Tensor:
    """The rows of all processes (B_r, ...) as the full batch (total, ...), in the order a single process would have.

    If each process then computes the same loss, and gradients are averaged over processes as usual, every parameter,
    before or after the gather, gets the gradient that a single process would compute.
    """
    if world_size() == 1:
        return x
    return _Gather.apply(x, world_size() * len(x) if total is None else total)


def on_first_process(value: Callable[[], T]) -> T:
    """The value computed by process 0, on all processes: they may see different states of the disk."""
    if world_size() == 1:
        return value()
    box: list[Any] = [value() if rank() == 0 else None]
    dist.broadcast_object_list(box)
    return box[0]
