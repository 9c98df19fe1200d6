"""ResNets for 32x32 images (He et al., 2015, arXiv:1512.03385, section 4.2), plain and four times as wide ("x4")."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from ..build import MODELS
from ..staged import LayeredModel, add_shortcut, init_kaiming, last_batch_norms


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; returns the sum before the ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return add_shortcut(out, x if self.downsample is None else self.downsample(x))


class BlockStage(nn.Sequential):
    """Residual blocks, each followed by a ReLU; returns (activation, preactivation) of the last."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self:
            preactivation = block(x)
            x = F.relu(preactivation)
        return x, preactivation


class ResNet(LayeredModel):
    """Depth 6n + 2: a stem and three stages of n blocks at 1, 1/2 and 1/4 of the input's size."""

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int):
        super().__init__()
        blocks = (depth - 2) // 6
        self.stage_channels = tuple(widths)
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = self._stage(widths[0], widths[1], blocks, 1)
        self.layer2 = self._stage(widths[1], widths[2], blocks, 2)
        self.layer3 = self._stage(widths[2], widths[3], blocks, 2)
        self.fc = nn.Linear(widths[3], num_classes)
        init_kaiming(self)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> BlockStage:
        first = BasicBlock(in_channels, channels, stride)
        return BlockStage(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return last_batch_norms([self.layer1, self.layer2, self.layer3])


for _depth in (8, 14, 20, 32, 44, 56, 110):
    MODELS.register(f"cifar/resnet{_depth}")(partial(ResNet, _depth, (16, 16, 32, 64)))
for _depth in (8, 32):
    MODELS.register(f"cifar/resnet{_depth}x4")(partial(ResNet, _depth, (32, 64, 128, 256)))
