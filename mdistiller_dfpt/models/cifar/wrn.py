"""Wide residual networks (Zagoruyko & Komodakis, 2016, arXiv:1605.07146): BatchNorm and ReLU before convolutions."""

import math
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from ..build import MODELS
from ..staged import Stage, StagedModel, add_shortcut


class PreactBlock(nn.Module):
    """BN-ReLU-conv twice; if the width changes, the shortcut also takes the normalised input."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.convShortcut = None
        if in_channels != channels:
            self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normalised = F.relu(self.bn1(x), inplace=True)
        out = self.conv2(F.relu(self.bn2(self.conv1(normalised)), inplace=True))
        return add_shortcut(out, x if self.convShortcut is None else self.convShortcut(normalised))


class Block(nn.Module):
    """One stage of pre-activation blocks."""

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int):
        super().__init__()
        rest = (PreactBlock(channels, channels, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(PreactBlock(in_channels, channels, stride), *rest)

    @property
    def first_bn(self) -> nn.BatchNorm2d:
        """The first BatchNorm that a map passes in this stage."""
        first = self.layer[0]
        assert isinstance(first, PreactBlock)
        return first.bn1

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def peek(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """The output of `bn` for x, without updating its running statistics a second time in this step."""
    if bn.training:
        return F.batch_norm(x, None, None, bn.weight, bn.bias, True, 0.0, bn.eps)
    return bn(x)


class WideResNet(StagedModel):
    """Depth 6n + 4, width factor k. A stage's preactivation is its output after the BatchNorm of the next block."""

    def __init__(self, depth: int, width: int, num_classes: int):
        super().__init__()
        blocks = (depth - 4) // 6
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.stage_channels = widths
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = Block(widths[0], widths[1], blocks, 1)
        self.block2 = Block(widths[1], widths[2], blocks, 2)
        self.block3 = Block(widths[2], widths[3], blocks, 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                fan_out = m.kernel_size[0] * m.kernel_size[1] * m.out_channels
                nn.init.normal_(m.weight, 0, math.sqrt(2.0 / fan_out))
        nn.init.zeros_(self.fc.bias)

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.conv1(x)
        return out, out

    def _stage(self, block: Block, next_bn: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
        out = block(x)
        return out, peek(next_bn, out)

    def stages(self) -> list[Stage]:
        return [
            self._stem,
            partial(self._stage, self.block1, self.block2.first_bn),
            partial(self._stage, self.block2, self.block3.first_bn),
            partial(self._stage, self.block3, self.bn1),
        ]

    def head_map(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(x), inplace=True)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [self.block2.first_bn, self.block3.first_bn, self.bn1]


for _depth, _width in ((16, 1), (16, 2), (16, 4), (28, 2), (28, 4), (40, 1), (40, 2)):
    MODELS.register(f"cifar/wrn_{_depth}_{_width}")(partial(WideResNet, _depth, _width))
