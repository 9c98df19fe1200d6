"""MobileNetV1 (Howard et al., 2017, arXiv:1704.04861), the usual student of ResNet50 in the literature.

Its keys, `model.<layer>.<part>` and `fc`, are those of the published weights; torchvision has no such network.
"""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from ..build import MODELS
from ..staged import Stage, StagedModel, init_kaiming

# (channels, stride) of the layers after the stem
_LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2), (1024, 1))


def _separable(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels), nn.ReLU(),
        nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
    )  # fmt: skip


class MobileNetV1(StagedModel):
    """A stem and a layer at 1/2 of the input resolution, then four stages, down to 1/32."""

    _starts = (2, 4, 6, 12, 14)  # the layers at which the resolution changes, and the end

    def __init__(self, num_classes: int):
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        widths = [32, *(channels for channels, _ in _LAYERS)]
        layers = (_separable(widths[i], channels, stride) for i, (channels, stride) in enumerate(_LAYERS))
        self.model = nn.Sequential(stem, *layers)
        self.fc = nn.Linear(1024, num_classes)
        self.stage_channels = tuple(widths[start - 1] for start in self._starts)
        init_kaiming(self)

    def _part(self, first: int, last: int, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.model[first : last - 1](x)
        layer = self.model[last - 1]
        assert isinstance(layer, nn.Sequential)  # true for all layers
        preactivation = layer[:-1](x)
        return layer[-1](preactivation), preactivation

    def stages(self) -> list[Stage]:
        starts = (0, *self._starts)
        return [partial(self._part, *ends) for ends in pairwise(starts)]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [self.get_submodule(f"model.{start - 1}.4") for start in self._starts[1:]]  # type: ignore[misc]


MODELS.register("imagenet/MobileNetV1")(MobileNetV1)
