"""VGG with BatchNorm for 32x32 images (Simonyan & Zisserman, 2014, arXiv:1409.1556), one linear classifier."""

import math
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from ..build import MODELS
from ..staged import Stage, StagedModel, relu_pair

_BLOCKS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def _block(in_channels: int, channels: int, convs: int) -> nn.Sequential:
    """`convs` times conv-BN with a ReLU in between; the stage applies the last ReLU."""
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(True)]
        in_channels = channels
    return nn.Sequential(*layers[:-1])


class VGG(StagedModel):
    """Five blocks of 64, 128, 256, 512 and 512 channels; the first is the stem."""

    head_modules = ("classifier",)
    block0: nn.Sequential

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        widths = (64, 128, 256, 512, 512)
        self.stage_channels = widths
        for i, convs in enumerate(_BLOCKS[depth]):
            setattr(self, f"block{i}", _block(3 if i == 0 else widths[i - 1], widths[i], convs))
        self.classifier = nn.Linear(widths[-1], num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                assert m.bias is not None  # `_block` sets a bias
                nn.init.normal_(m.weight, 0, math.sqrt(2.0 / (9 * m.out_channels)))
                nn.init.zeros_(m.bias)
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0, 0.01)
                nn.init.zeros_(m.bias)

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = F.relu(self.block0(x), inplace=True)
        return out, out

    def _stage(self, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        # The published networks pool before the last block only for images of 64 pixels, whose map has height 8 here
        if number < 4 or x.shape[-2] == 8:
            x = F.max_pool2d(x, 2)
        return relu_pair(getattr(self, f"block{number}")(x))

    def stages(self) -> list[Stage]:
        return [self._stem, *(partial(self._stage, number) for number in (1, 2, 3, 4))]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [getattr(self, f"block{number}")[-1] for number in (1, 2, 3, 4)]


for _depth in _BLOCKS:
    MODELS.register(f"cifar/vgg{_depth}")(partial(VGG, _depth))
