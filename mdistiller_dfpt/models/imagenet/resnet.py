"""ResNet18, 34 and 50 (He et al., 2015, arXiv:1512.03385) built from torchvision's modules, with its keys."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet as tv

from ..build import MODELS
from ..staged import Stage, StagedModel, last_batch_norms


def run_stage(stage: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """A stage of torchvision's blocks, returning (activation, preactivation); the blocks return only the former."""
    *before, last = stage
    assert isinstance(last, (tv.BasicBlock, tv.Bottleneck))
    for block in before:
        x = block(x)
    out = F.relu(last.bn1(last.conv1(x)))
    out = last.bn2(last.conv2(out))
    if isinstance(last, tv.Bottleneck):
        out = last.bn3(last.conv3(F.relu(out)))
    out = out + (x if last.downsample is None else last.downsample(x))
    return F.relu(out), out


class ResNet(StagedModel, tv.ResNet):
    """A 7x7 stem at 1/4 of the input resolution and four stages, down to 1/32."""

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    maxpool: nn.MaxPool2d

    def __init__(self, block: type[tv.BasicBlock] | type[tv.Bottleneck], layers: tuple[int, ...], num_classes: int):
        tv.ResNet.__init__(self, block, list(layers), num_classes)
        self.stage_channels = (64, *(width * block.expansion for width in (64, 128, 256, 512)))

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        return out, out

    def stages(self) -> list[Stage]:
        return [self._stem, *(partial(run_stage, getattr(self, f"layer{i}")) for i in range(1, 5))]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """As in mdistiller, without that of the first stage."""
        return last_batch_norms([getattr(self, f"layer{i}") for i in (2, 3, 4)])


MODELS.register("imagenet/ResNet18")(partial(ResNet, tv.BasicBlock, (2, 2, 2, 2)))
MODELS.register("imagenet/ResNet34")(partial(ResNet, tv.BasicBlock, (3, 4, 6, 3)))
MODELS.register("imagenet/ResNet50")(partial(ResNet, tv.Bottleneck, (3, 4, 6, 3)))
