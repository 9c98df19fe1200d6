"""Counts multiply-accumulates of convolutions and linear layers while a network runs."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn


@contextlib.contextmanager
def count_macs(root: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """Context that yields a dict from each convolution or linear layer below `root` to its MACs per image so far."""
    macs: dict[nn.Module, int] = {}

    def hook(module: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        per_output = module.weight[0].numel()
        macs[module] = macs.get(module, 0) + per_output * output[0].numel()

    layers = {m for m in root.modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    handles = [m.register_forward_hook(hook) for m in layers]
    try:
        yield macs
    finally:
        for handle in handles:
            handle.remove()


def total(macs: dict[nn.Module, int], root: nn.Module) -> int:
    """MACs of the layers below `root`."""
    inside = set(root.modules())
    return sum(count for module, count in macs.items() if module in inside)
