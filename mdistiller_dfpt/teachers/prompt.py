"""Prompt and fusion blocks, which the prompt path inserts between the stages of a frozen teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..registry import Registry

PROMPT_BLOCKS: "Registry[type[PromptBlock]]" = Registry("prompt block")
"""Maps DFPTKD.PROMPT.BLOCK to a PromptBlock."""


class PartialConv(nn.Module):
    """A k x k convolution over the first `ratio` of the channels, at least one; the others pass through unchanged.

    (B, C, H, W) -> (B, C, H, W); from FasterNet (Chen et al., 2023, arXiv:2303.03667).
    """

    def __init__(self, channels: int, kernel: int, ratio: float):
        super().__init__()
        self.convolved = max(1, round(channels * ratio))
        self.conv = nn.Conv2d(self.convolved, self.convolved, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.convolved == x.shape[1]:
            return self.conv(x)
        return torch.cat([self.conv(x[:, : self.convolved]), x[:, self.convolved :]], 1)


class PromptBlock(nn.Module):
    """1x1 down to C / r1, a `middle` that subclasses build, 1x1 back up to C; (B, C, H, W) -> (B, C, H, W).

    With `norm`, a BatchNorm and a ReLU follow the first convolution and each point-wise one of the middle, so that the
    block is more than one linear map; the last convolution stays linear, since its result is added to the stage's.
    """

    def __init__(self, channels: int, r1: int, r2: float, kernels: Sequence[int], norm: bool):
        super().__init__()
        inner = max(1, channels // r1)
        self.down = nn.Sequential(*pointwise(channels, inner, norm))
        self.middle = self.build_middle(inner, r2, kernels, norm)
        self.up = nn.Conv2d(inner, channels, 1)

    def build_middle(self, channels: int, r2: float, kernels: Sequence[int], norm: bool) -> nn.Module:
        """A module (B, channels, H, W) -> (B, channels, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.middle(self.down(x)))

    def zero(self) -> None:
        """Make the block return zeros while its last convolution still receives a gradient."""
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)


def pointwise(in_channels: int, channels: int, norm: bool) -> list[nn.Module]:
    """A 1x1 convolution, followed by BatchNorm and ReLU if `norm` is set."""
    conv = nn.Conv2d(in_channels, channels, 1, bias=not norm)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()] if norm else [conv]


@PROMPT_BLOCKS.register("sequence")
class SequencePrompt(PromptBlock):
    """Partial convolutions of increasing kernel size, each followed by a point-wise one (as in the paper)."""

    def build_middle(self, channels: int, r2: float, kernels: Sequence[int], norm: bool) -> nn.Module:
        layers: list[nn.Module] = []
        for kernel in kernels:
            layers += [PartialConv(channels, kernel, r2), *pointwise(channels, channels, norm)]
        return nn.Sequential(*layers)


class ParallelConv(nn.Module):
    """Kernel j convolves its own group within the first `ratio` of the channels; the others pass through."""

    def __init__(self, channels: int, ratio: float, kernels: Sequence[int]):
        super().__init__()
        share = max(1, round(channels * ratio / len(kernels)))
        kernels = kernels[: channels // share]
        self.convs = nn.ModuleList(nn.Conv2d(share, share, k, padding=k // 2, bias=False) for k in kernels)
        self.sizes = [share] * len(kernels) + [channels - share * len(kernels)]

    def forward(self, x: Tensor) -> Tensor:
        *parts, rest = x.split(self.sizes, dim=1)
        return torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)] + [rest], 1)


@PROMPT_BLOCKS.register("parallel")
class ParallelPrompt(PromptBlock):
    """Multi-scale partial convolutions on parallel channel groups, then one point-wise convolution."""

    def build_middle(self, channels: int, r2: float, kernels: Sequence[int], norm: bool) -> nn.Module:
        return nn.Sequential(ParallelConv(channels, r2, kernels), *pointwise(channels, channels, norm))


@PROMPT_BLOCKS.register("conv")
class ConvPrompt(PromptBlock):
    """One plain convolution of the first kernel size over all channels: the paper's single-scale ablation."""

    def build_middle(self, channels: int, r2: float, kernels: Sequence[int], norm: bool) -> nn.Module:
        conv = nn.Conv2d(channels, channels, kernels[0], padding=kernels[0] // 2, bias=False)
        return nn.Sequential(conv, *pointwise(channels, channels, norm))


class FusionBlock(nn.Conv2d):
    """The 1x1 convolution F_i on the sum of a stage's map and its prompt."""

    bias: nn.Parameter  # never None here

    def __init__(self, channels: int):
        super().__init__(channels, channels, 1)

    def identity(self) -> None:
        """Make the block the identity."""
        nn.init.dirac_(self.weight)
        nn.init.zeros_(self.bias)
