"""ShuffleNetV2 at width 1 (Ma et al., 2018, arXiv:1807.11164): torchvision's network, divided into stages."""

from functools import partial

from torch import Tensor, nn
from torchvision.models import shufflenetv2 as tv

from ..build import MODELS
from ..staged import Stage, StagedModel


def _doubled(stage: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    out = stage(x)
    return out, out  # each half ends with its own ReLU before the channels are shuffled


class ShuffleNetV2(StagedModel, tv.ShuffleNetV2):
    """A stem at 1/4 of the input resolution, three stages, down to 1/32; a 1x1 convolution to 1024 in the head."""

    head_modules = ("conv5", "fc")
    conv1: nn.Sequential
    maxpool: nn.MaxPool2d
    stage2: nn.Sequential
    stage3: nn.Sequential
    stage4: nn.Sequential
    conv5: nn.Sequential

    def __init__(self, num_classes: int):
        widths = [24, 116, 232, 464, 1024]
        tv.ShuffleNetV2.__init__(self, [4, 8, 4], widths, num_classes)
        self.stage_channels = tuple(widths[:4])

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _doubled(nn.Sequential(self.conv1, self.maxpool), x)

    def stages(self) -> list[Stage]:
        return [self._stem, *(partial(_doubled, stage) for stage in (self.stage2, self.stage3, self.stage4))]

    def head_map(self, x: Tensor) -> Tensor:
        return self.conv5(x)


MODELS.register("imagenet/ShuffleNetV2")(ShuffleNetV2)
