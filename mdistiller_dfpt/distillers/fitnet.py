"""FitNet: regress an intermediate feature map of the teacher (Romero et al., 2015, arXiv:1412.6550).

Paper: FitNets: Hints for Thin Deep Nets.

Formula: $$L = w_{CE} CE + w_{feat} MSE(g(F^S_l), F^T_l)$$ where $l$ is HINT_LAYER, and $g$ a convolution with BatchNorm
and ReLU.

Code: megvii-research/mdistiller a08d46f, mdistiller/distillers/FitNet.py and _common.py (the authors' own was not
compared).

Differs: where one map's side is no whole multiple of the other's, ours is pooled to it; theirs is convolved without
padding.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, ImageShape, check_shapes, feature_shapes, weights


def fitnet_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps of equal shape (B, C, H, W) (equation 3)."""
    return F.mse_loss(student, teacher)


class Regressor(nn.Module):
    """Maps shape `source` (C, H, W) to `target`: a convolution, BatchNorm and ReLU.

    Its stride doubles or halves the size if the sizes differ by a factor of two, as in the reference; for other sizes
    the map is pooled or interpolated before a 1x1 convolution.
    """

    def __init__(self, source: ImageShape, target: ImageShape):
        super().__init__()
        self.size = (target[1], target[2])
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if source[1] == 2 * target[1] and source[2] == 2 * target[2]:
            self.conv = nn.Conv2d(source[0], target[0], 3, stride=2, padding=1)
        elif 2 * source[1] == target[1] and 2 * source[2] == target[2]:
            self.conv = nn.ConvTranspose2d(source[0], target[0], 4, stride=2, padding=1)
        else:
            self.conv = nn.Conv2d(source[0], target[0], 1)
        self.bn = nn.BatchNorm2d(target[0])

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.kernel_size == (1, 1) and x.shape[2:] != self.size:
            larger = x.shape[2] > self.size[0]
            x = F.adaptive_avg_pool2d(x, self.size) if larger else F.interpolate(x, self.size, mode="nearest")
        return F.relu(self.bn(self.conv(x)))


@DISTILLERS.register("FITNET")
class FitNet(FeatureDistiller):
    """Cross-entropy, and `fitnet_loss` on feature map number HINT_LAYER (0: the stem)."""

    config = CN(
        {
            "HINT_LAYER": 2,
            "INPUT_SIZE": [],  # mdistiller's key; checked against the image size of the data
            "LOSS": weights(1.0, 100.0),
        }
    )
    limits = {**WEIGHT_LIMITS, "HINT_LAYER": NOT_NEGATIVE}
    mdistiller_defaults = {"INPUT_SIZE": [32, 32]}
    takes_soft_labels = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, hint_layer: int, input_size: list[int], ce_weight: float,
        feat_weight: float, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        self.inferred = check_shapes({"FITNET.INPUT_SIZE": (input_size, list(image_shape[1:]))})
        shapes = [feature_shapes(network, image_shape).feats for network in (student, self.teacher_network)]
        last = min(map(len, shapes)) - 1
        if hint_layer > last:
            raise ValueError(f"FITNET.HINT_LAYER is {hint_layer}; both networks have layers 0 to {last}")
        self.hint_layer = hint_layer
        self.regressor = Regressor(shapes[0][hint_layer], shapes[1][hint_layer])

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        hint = self.regressor(student.features["feats"][self.hint_layer])
        return fitnet_loss(hint, teacher.features["feats"][self.hint_layer])
