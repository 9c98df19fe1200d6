"""A frozen network with the BatchNorm layers that follow a convolution folded into it: fewer passes over its maps."""

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .probe import ImageShape, dummy_image, probing

TOLERANCE = 1e-3  # of the largest value, in float32
Pair = tuple[str, str]  # names of a convolution and of the BatchNorm that reads it


def fold_batch_norm(network: nn.Module, shape: ImageShape) -> int:
    """Let `network(image)` compute through a folded copy from here on; how many layers were folded.

    For a network in eval mode that does not change any more; its parameters and buffers stay as they are. A layer is
    folded where all that the network returns, features too, stays the same to rounding. `shape` (3, H, W).
    """
    with probing(network):
        image = dummy_image(network, shape)
        image += torch.linspace(-2, 2, image.numel(), device=image.device).view_as(image)
        expected = _values(network(image))
        pairs = _pairs(network, image)
        folded = copy.deepcopy(network)
        if not _fold(folded, pairs, image, expected):
            # Somebody else reads one of the convolutions: find out whose
            folded = copy.deepcopy(network)
            pairs = [pair for pair in pairs if _fold(folded, [pair], image, expected)]
    network.forward = folded.forward
    return len(pairs)


def _pairs(network: nn.Module, image: Tensor) -> list[Pair]:
    """Convolutions and the BatchNorm layers that read what they return, where both are called once."""
    made: dict[int, tuple[str, Tensor]] = {}
    pairs: list[Pair] = []
    calls: Counter[str] = Counter()
    handles = []
    for name, layer in network.named_modules():

        def after(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            calls[name] += 1
            if isinstance(module, nn.Conv2d):
                made[id(output)] = (name, output)  # held, so that no other tensor gets its id
            elif id(args[0]) in made:
                pairs.append((made[id(args[0])][0], name))

        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            handles.append(layer.register_forward_hook(after))
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in pairs if all(calls[name] == 1 for name in pair)]


def _fold(network: nn.Module, pairs: list[Pair], image: Tensor, expected: list[Tensor]) -> bool:
    """Fold these in place; False, and as before, where the network then says something else."""
    before = {name: network.get_submodule(name) for pair in pairs for name in pair}
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(network.get_submodule(conv), network.get_submodule(norm))
        network.set_submodule(conv, fused.requires_grad_(False))
        network.set_submodule(norm, nn.Identity())
    values = _values(network(image))
    if all(_close(*pair) for pair in zip(expected, values, strict=True)):
        return True
    for name, layer in before.items():
        network.set_submodule(name, layer)
    return False


def _values(result: Any) -> list[Tensor]:
    """All tensors of (logits, features), in order."""
    if isinstance(result, Tensor):
        return [result]
    parts = result.values() if isinstance(result, Mapping) else result
    return [value for part in parts for value in _values(part)]


def _close(one: Tensor, other: Tensor) -> bool:
    scale = max(1.0, one.abs().max().item())
    return one.shape == other.shape and (one - other).abs().max().item() <= TOLERANCE * scale
