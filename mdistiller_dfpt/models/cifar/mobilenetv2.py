"""MobileNetV2 at half width for 32x32 images (Sandler et al., 2018, arXiv:1801.04381)."""

import math
from functools import partial

from torch import Tensor, nn

from ..build import MODELS
from ..staged import Stage, StagedModel

# (expansion, channels, blocks, stride) at width 1
_SETTING = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _conv_bn(in_channels: int, channels: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1; with a shortcut if the shape does not change."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int):
        super().__init__()
        mid = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            *_conv_bn(in_channels, mid, 1, 1), nn.ReLU(True),
            *_conv_bn(mid, mid, 3, stride, groups=mid), nn.ReLU(True),
            *_conv_bn(mid, channels, 1, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(StagedModel):
    """Stages end after blocks 1, 2, 4 and 6, before each change of resolution."""

    head_modules = ("conv2", "classifier")
    _ends = ((0, 1), (2,), (3, 4), (5, 6))

    def __init__(self, num_classes: int, width: float = 0.5):
        super().__init__()
        in_channels = int(32 * width)
        self.conv1 = nn.Sequential(*_conv_bn(3, in_channels, 3, 2), nn.ReLU(True))
        stem = in_channels
        self.blocks = nn.ModuleList()
        for expansion, channels, count, stride in _SETTING:
            layers = []
            for i in range(count):
                layers.append(InvertedResidual(in_channels, int(channels * width), stride if i == 0 else 1, expansion))
                in_channels = int(channels * width)
            self.blocks.append(nn.Sequential(*layers))
        self.stage_channels = (stem, *(int(_SETTING[blocks[-1]][1] * width) for blocks in self._ends))
        self.conv2 = nn.Sequential(*_conv_bn(in_channels, 1280, 1, 1), nn.ReLU(True))
        self.classifier = nn.Sequential(nn.Linear(1280, num_classes))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.normal_(m.weight, 0, math.sqrt(2.0 / (m.kernel_size[0] ** 2 * m.out_channels)))
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0, 0.01)
                nn.init.zeros_(m.bias)

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.conv1(x)
        return out, out

    def _stage(self, blocks: tuple[int, ...], x: Tensor) -> tuple[Tensor, Tensor]:
        for number in blocks:
            x = self.blocks[number](x)
        return x, x  # linear bottlenecks end without an activation

    def stages(self) -> list[Stage]:
        return [self._stem, *(partial(self._stage, blocks) for blocks in self._ends)]

    def head_map(self, x: Tensor) -> Tensor:
        return self.conv2(x)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [self.get_submodule(f"blocks.{blocks[-1]}")[-1].conv[-1] for blocks in self._ends]  # type: ignore[index]


MODELS.register("cifar/MobileNetV2")(MobileNetV2)
