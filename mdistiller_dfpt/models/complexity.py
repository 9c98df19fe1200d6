"""Counts multiply-accumulates while a network runs: all, or those of each convolution and linear layer."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .dummy import dummy_image, probing


def macs_per_image(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """The MACs of all matrix products and convolutions of a network for one image of `shape` (3, H, W)."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused attention is not counted
    try:
        with probing(network), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(dummy_image(network, shape))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops()) // 2


@contextlib.contextmanager
def count_macs(root: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """Context that yields a dict from each convolution or linear layer below `root` to its MACs so far.

    They are those of all images: give one. Networks of windows have several in the place of a batch.
    """
    macs: dict[nn.Module, int] = {}

    def hook(module: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        per_output = module.weight[0].numel()
        macs[module] = macs.get(module, 0) + per_output * output.numel()

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
