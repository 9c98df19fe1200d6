"""ShuffleNet with three groups for 32x32 images (Zhang et al., 2017, arXiv:1707.01083)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..build import MODELS
from ..staged import LayeredModel, add_shortcut
from .resnet import BlockStage


class Bottleneck(nn.Module):
    """Grouped 1x1, channel shuffle, depthwise 3x3, grouped 1x1; returns the map before the last ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int):
        super().__init__()
        mid = channels // 4
        first_groups = 1 if in_channels == 24 else groups  # the stem has too few channels for groups
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, mid, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.shuffle1 = nn.ChannelShuffle(first_groups)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, channels, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.shuffle1(F.relu(self.bn1(self.conv1(x)), inplace=True))
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return add_shortcut(out, x)
        return torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1)


class ShuffleNetV1(LayeredModel):
    """A 1x1 stem and three stages of 4, 8 and 4 blocks, each at half the resolution of the previous one."""

    head_modules = ("linear",)

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (240, 480, 960), groups: int = 3):
        super().__init__()
        self.stage_channels = (24, *widths)
        self.conv1 = nn.Conv2d(3, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        in_channels = 24
        for i, (width, count) in enumerate(zip(widths, (4, 8, 4), strict=True)):
            # The first block concatenates its input, so its own convolutions produce only the remaining channels
            first = Bottleneck(in_channels, width - in_channels, 2, groups)
            rest = (Bottleneck(width, width, 1, groups) for _ in range(count - 1))
            setattr(self, f"layer{i + 1}", BlockStage(first, *rest))
            in_channels = width
        self.linear = nn.Linear(in_channels, num_classes)


MODELS.register("cifar/ShuffleV1")(ShuffleNetV1)
