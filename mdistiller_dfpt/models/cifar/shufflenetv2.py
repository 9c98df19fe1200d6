"""ShuffleNetV2 at width 1 for 32x32 images (Ma et al., 2018, arXiv:1807.11164)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..build import MODELS
from ..staged import LayeredModel


class ShuffleBlock(nn.Module):
    """Half of the channels pass through, the other half is convolved; returns (activation, preactivation)."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        passed, x = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        preactivation = self.bn3(self.conv3(out))
        activation = self.shuffle(torch.cat([passed, F.relu(preactivation)], 1))
        # Not shuffled, like the feature maps of the reference networks
        return activation, torch.cat([passed, preactivation], 1)


class DownBlock(nn.Module):
    """Both halves are convolved with stride 2."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        mid = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, mid, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(in_channels, mid, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(mid)
        self.conv4 = nn.Conv2d(mid, mid, 3, 2, 1, groups=mid, bias=False)
        self.bn4 = nn.BatchNorm2d(mid)
        self.conv5 = nn.Conv2d(mid, mid, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(mid)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)), inplace=True)))
        right = self.bn5(self.conv5(right))
        preactivation = torch.cat([left, right], 1)
        return self.shuffle(F.relu(preactivation)), preactivation


class ShuffleStage(nn.Sequential):
    """Blocks in order; returns (activation, preactivation) of the last."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self:
            x, preactivation = block(x)
        return x, preactivation


class ShuffleNetV2(LayeredModel):
    """A 1x1 stem, three stages of 4, 8 and 4 blocks, and a 1x1 convolution to 1024 channels in the head."""

    head_modules = ("conv2", "bn2", "linear")

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (116, 232, 464, 1024)):
        super().__init__()
        self.stage_channels = (24, *widths[:3])
        self.conv1 = nn.Conv2d(3, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        in_channels = 24
        for i, (width, count) in enumerate(zip(widths[:3], (4, 8, 4), strict=True)):
            rest = (ShuffleBlock(width) for _ in range(count - 1))
            setattr(self, f"layer{i + 1}", ShuffleStage(DownBlock(in_channels, width), *rest))
            in_channels = width
        self.conv2 = nn.Conv2d(in_channels, widths[3], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[3])
        self.linear = nn.Linear(widths[3], num_classes)

    def head_map(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(x)), inplace=True)


MODELS.register("cifar/ShuffleV2")(ShuffleNetV2)
