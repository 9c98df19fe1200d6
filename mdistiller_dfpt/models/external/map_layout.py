"""Converts feature maps to (B, C, H, W) and back: channels first, channels last, or tokens of a grid."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """The layout of a map in a tensor: `NCHW`, `NHWC`, or `NLC` with `prefix` tokens (class, registers) in front."""

    kind: str
    channels: int
    prefix: int = 0


def find_layout(x: Tensor) -> Layout | None:
    """The layout of the output for a square image, (1, ...); None if it is not a feature map."""
    shape = tuple(x.shape)
    if len(shape) == 4 and min(shape[1:]) > 0:
        if shape[2] == shape[3]:
            return Layout("NCHW", shape[1])
        if shape[1] == shape[2]:
            return Layout("NHWC", shape[3])
    if len(shape) == 3 and shape[1] >= 4:
        side = math.isqrt(shape[1])
        # With more prefix tokens than any network has, it is some other sequence
        return Layout("NLC", shape[2], shape[1] - side * side) if shape[1] - side * side <= 16 else None
    return None


def side_of(x: Tensor, layout: Layout) -> int:
    """Height of the map in `x`."""
    return (
        math.isqrt(x.shape[1] - layout.prefix) if layout.kind == "NLC" else x.shape[2 if layout.kind == "NCHW" else 1]
    )


def to_map(x: Tensor, layout: Layout, aspect: float) -> Tensor:
    """`x` as (B, C, H, W); `aspect` is the height of the image divided by its width."""
    if layout.kind == "NCHW":
        return x
    if layout.kind == "NHWC":
        return x.permute(0, 3, 1, 2)
    grid = x[:, layout.prefix :]
    height = max(1, round(math.sqrt(grid.shape[1] * aspect)))
    return grid.transpose(1, 2).unflatten(2, (height, -1))


def from_map(changed: Tensor, x: Tensor, layout: Layout) -> Tensor:
    """A map (B, C, H, W) in the layout of `x`, whose prefix tokens are kept."""
    if layout.kind == "NCHW":
        return changed
    if layout.kind == "NHWC":
        return changed.permute(0, 2, 3, 1)
    tokens = changed.flatten(2).transpose(1, 2)
    return torch.cat([x[:, : layout.prefix].to(tokens.dtype), tokens], 1) if layout.prefix else tokens
