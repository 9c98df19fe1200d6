"""mdistiller's networks for Tiny ImageNet: the CIFAR networks at 64x64, with a MobileNetV2 at full width."""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from ..errors import ConfigError
from .build import MODELS
from .staged import Stage, StagedModel, global_pool

# (channels, blocks, stride, expansion) of stages 1 to 7
_SETTING = ((16, 1, 1, 1), (24, 2, 2, 6), (32, 3, 2, 6), (64, 4, 2, 6), (96, 3, 1, 6), (160, 3, 1, 6), (320, 1, 1, 6))


def _conv_bn(in_channels: int, channels: int, *, padding: int = 0) -> list[nn.Module]:
    """A 1x1 convolution with a bias, as in the published weights, and BatchNorm."""
    return [nn.Conv2d(in_channels, channels, 1, padding=padding), nn.BatchNorm2d(channels)]


class LinearBottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1; with a shortcut if the shape does not change."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int):
        super().__init__()
        mid = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == channels
        self.residual = nn.Sequential(
            *_conv_bn(in_channels, mid), nn.ReLU6(),
            nn.Conv2d(mid, mid, 3, stride, 1, groups=mid), nn.BatchNorm2d(mid), nn.ReLU6(),
            *_conv_bn(mid, channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x) if self.shortcut else self.residual(x)


class MobileNetV2(StagedModel):
    """Stages end after its own stages 2, 3 and 4, and after the 1x1 convolution to 1280 channels that is pooled.

    The padded 1x1 convolution of the stem makes maps of 66x66 from images of 64x64. The classifier is a convolution.
    """

    head_modules = ("conv2",)
    _ends = (2, 3, 4, 7)

    def __init__(self, num_classes: int):
        super().__init__()
        self.pre = nn.Sequential(*_conv_bn(3, 32, padding=1), nn.ReLU6())
        in_channels = 32
        for number, (channels, count, stride, expansion) in enumerate(_SETTING, start=1):
            first = LinearBottleneck(in_channels, channels, stride, expansion)
            rest = (LinearBottleneck(channels, channels, 1, expansion) for _ in range(count - 1))
            setattr(self, f"stage{number}", nn.Sequential(first, *rest) if count > 1 else first)
            in_channels = channels
        self.conv1 = nn.Sequential(*_conv_bn(in_channels, 1280), nn.ReLU6())
        self.conv2 = nn.Conv2d(1280, num_classes, 1)
        self.stage_channels = (32, 24, 32, 64, 1280)

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.pre(x)
        return out, out

    def _stages(self, after: int, last: int, x: Tensor) -> tuple[Tensor, Tensor]:
        for number in range(after + 1, last + 1):
            x = self.get_submodule(f"stage{number}")(x)
        if last == 7:
            x = self.conv1(x)
        return x, x  # linear bottlenecks end without an activation

    def stages(self) -> list[Stage]:
        return [self._stem, *(partial(self._stages, *ends) for ends in pairwise((0, *self._ends)))]

    def classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = global_pool(x)
        return self.conv2(pooled[:, :, None, None]).flatten(1), pooled

    @property
    def classifier_layer(self) -> nn.Linear:
        raise ConfigError("MobileNetV2 of tiny_imagenet has no linear classifier, which this method reuses")

    @property
    def num_classes(self) -> int:
        return self.conv2.out_channels


for _key in [key for key in MODELS if key.startswith("cifar/")]:
    if _key != "cifar/MobileNetV2":
        MODELS.register(_key.replace("cifar/", "tiny_imagenet/"))(MODELS[_key])
MODELS.register("tiny_imagenet/MobileNetV2")(MobileNetV2)
