"""The wide four-stage ResNet18 and ResNet50 for 32x32 images (He et al., 2015, with a 3x3 stem and no max-pooling)."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from ..build import MODELS
from ..staged import LayeredModel, add_shortcut, init_kaiming, last_batch_norms
from .resnet import BlockStage


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    if stride == 1 and in_channels == channels:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


class Basic(nn.Module):
    """Two 3x3 convolutions; returns the sum before the ReLU."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return add_shortcut(self.bn2(self.conv2(out)), self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with four times the width at the end; returns the sum before the ReLU."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return add_shortcut(self.bn3(self.conv3(out)), self.shortcut(x))


class ResNetV2(LayeredModel):
    """A stem and four stages at 1, 1/2, 1/4 and 1/8 of the input's size."""

    head_modules = ("linear",)

    def __init__(self, block: type[Basic] | type[Bottleneck], blocks: tuple[int, ...], num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 128, 256, 512)
        self.stage_channels = (64, *(w * block.expansion for w in widths))
        in_channels = 64
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            layers = []
            for j in range(count):
                layers.append(block(in_channels, width, 2 if i > 0 and j == 0 else 1))
                in_channels = width * block.expansion
            setattr(self, f"layer{i + 1}", BlockStage(*layers))
        self.linear = nn.Linear(in_channels, num_classes)
        init_kaiming(self)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return last_batch_norms([getattr(self, f"layer{i}") for i in (1, 2, 3, 4)])


MODELS.register("cifar/ResNet18")(partial(ResNetV2, Basic, (2, 2, 2, 2)))
MODELS.register("cifar/ResNet50")(partial(ResNetV2, Bottleneck, (3, 4, 6, 3)))
