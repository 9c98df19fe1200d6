"""MobileNetV2 at width 1 (Sandler et al., 2018, arXiv:1801.04381): torchvision's network, divided into stages."""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn
from torchvision.models import mobilenetv2 as tv

from ..build import MODELS
from ..staged import Stage, StagedModel


class MobileNetV2(StagedModel, tv.MobileNetV2):
    """A stem at 1/2 of the input resolution, then four stages, down to 1/32; a 1x1 convolution to 1280 in the head."""

    head_modules = ("features.18", "classifier")
    _ends = (2, 4, 7, 14, 18)  # features after which the resolution changes, and the last before the head
    features: nn.Sequential

    def __init__(self, num_classes: int):
        tv.MobileNetV2.__init__(self, num_classes)
        self.stage_channels = (16, 24, 32, 96, 320)

    def _part(self, first: int, last: int, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features[first:last](x)
        return x, x  # linear bottlenecks end without an activation

    def stages(self) -> list[Stage]:
        starts = (0, *self._ends)
        return [partial(self._part, *ends) for ends in pairwise(starts)]

    def head_map(self, x: Tensor) -> Tensor:
        return self.features[18](x)


MODELS.register("imagenet/MobileNetV2")(MobileNetV2)
