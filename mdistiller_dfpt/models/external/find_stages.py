"""Finds where the stages of a network end, from one image."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from ..dummy import try_image
from .map_layout import find_layout, side_of

MOST = 4  # stages; if a network has more resolutions, the last ones are used and everything before them is the stem


@dataclass(frozen=True)
class Call:
    """Input and output of a module for one image, and how often it ran."""

    inputs: Tensor
    output: Tensor
    count: int


def watch_calls(network: nn.Module, size: int) -> dict[str, Call]:
    """{module: call} for all modules that run on an image of `size` in eval mode, in the order in which they finish."""
    calls: dict[str, Call] = {}
    names = {module: name for name, module in network.named_modules() if name}

    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) and output else output
        given = args[0] if args else None
        if isinstance(output, Tensor):
            before = calls.pop(names[module], None)
            given = given if isinstance(given, Tensor) else output.new_empty(0)
            calls[names[module]] = Call(given, output, 1 + (before.count if before else 0))

    handles = [module.register_forward_hook(hook) for module in names]
    try:
        try_image(network, type(network).__name__, (3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def find_stages(network: nn.Module, calls: dict[str, Call]) -> tuple[str, ...]:
    """The modules that end a stage: the last of each resolution, or each quarter of a chain of equal blocks."""
    chain = _chain(network, calls)
    if not chain:
        return ()
    groups = [
        [name for name, _ in group] for _, group in groupby(((n, _side(n, calls)) for n in chain), lambda p: p[1])
    ]
    # Pooling between two stages belongs to neither; a single convolution is a stem
    groups = [g for g in groups if any(_size(network, name) for name in g)]
    if len(groups) > 1 and _is_one_convolution(network, groups[0]):
        del groups[0]
    if len(groups) > 1:
        return tuple([name for name in g if _size(network, name)][-1] for g in groups[-MOST:])
    parts = min(MOST, len(chain))
    return tuple(chain[round(len(chain) * k / parts) - 1] for k in range(1, parts + 1))


def _side(name: str, calls: dict[str, Call]) -> int:
    output = calls[name].output
    layout = find_layout(output)
    assert layout is not None, "a chain consists of modules that return feature maps"
    return side_of(output, layout)


def _size(network: nn.Module, name: str) -> int:
    return sum(p.numel() for p in network.get_submodule(name).parameters())


def _parts(network: nn.Module, name: str) -> int:
    """The number of direct children with weights."""
    return sum(_size(network, child) > 0 for child in _children(network, name))


def _is_one_convolution(network: nn.Module, names: list[str]) -> bool:
    layers = [m for name in names for m in network.get_submodule(name).modules()]
    kinds = [type(m) for m in layers if isinstance(m, nn.Conv2d | nn.Linear)]
    return kinds == [nn.Conv2d]


def _children(network: nn.Module, name: str) -> list[str]:
    """Names of the direct children; a ModuleList is replaced by its own children."""
    names = []
    for child, module in network.get_submodule(name).named_children():
        full = f"{name}.{child}" if name else child
        names += _children(network, full) if isinstance(module, nn.ModuleList) else [full]
    return names


def _chain(network: nn.Module, calls: dict[str, Call]) -> list[str]:
    """The sequential children that form the network, inside the module that contains nearly all of it."""
    inside = ""
    chain: list[str] = []
    while True:
        children = _children(network, inside)
        maps = [n for n in calls if n in children and calls[n].count == 1 and _holds_map(n, calls)]
        if len(maps) >= 2 or not chain:
            chain = maps
        if not maps:
            return chain
        sizes = {n: _size(network, n) for n in maps}
        inside = max(sizes, key=lambda n: sizes[n])
        # In a small network the stem may have more than a tenth of the weights
        sequences = [n for n in maps if isinstance(network.get_submodule(n), nn.Sequential) and _parts(network, n) > 1]
        least = 0.5 if sequences == [inside] else 0.9
        if sizes[inside] <= least * sum(sizes.values()) or len(_children(network, inside)) < 2:
            return chain


def _holds_map(name: str, calls: dict[str, Call]) -> bool:
    """Whether a module returned a feature map, or a single position after modules within it that returned maps.

    On small images, the `features` of many networks shrink to a single position.
    """
    if find_layout(calls[name].output) is None:
        return False
    return _is_map(calls[name]) or any(_is_map(call) for inner, call in calls.items() if inner.startswith(f"{name}."))


def _is_map(call: Call) -> bool:
    """Whether a module returned a feature map; a single position only counts if a small image shrank to it."""
    layout, before = find_layout(call.output), find_layout(call.inputs)
    if layout is None:
        return False
    return side_of(call.output, layout) > 1 or (before is not None and side_of(call.inputs, before) == 2)
