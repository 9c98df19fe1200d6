r"""ICKD: match the correlations between channels (Liu et al., 2021, arXiv:2202.03680).

Paper: Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{feat} \frac{1}{C_T} \|n(g(F^S) g(F^S)^\top) - n(F^T F^{T\top})\|^2$$ where a map $F$ is a
matrix of channels and positions, $g$ takes the student's to the teacher's $C_T$ channels, and $n$ scales each row to
unit length.

Code: ADLab-AutoDrive/ICKD 403b8d3, Cifar100/distiller_zoo/ICKD.py:19-56, Cifar100/helper/loops.py:151-155.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, ImageShape, feature_shapes, weights


def channel_correlation(x: Tensor) -> Tensor:
    """Inner products of a sample's channels, each row of unit length; (B, C, H, W) -> (B, C, C)."""
    x = x.flatten(2)
    return F.normalize(x @ x.transpose(1, 2), dim=2)


def ickd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the channel correlations, per row; (B, C, H, W), (B, C, H', W') -> ().

    The sizes of the maps may differ.
    """
    difference = channel_correlation(student) - channel_correlation(teacher)
    return difference.pow(2).sum(2).mean()


@DISTILLERS.register("ICKD")
class ICKD(FeatureDistiller):
    """Cross-entropy, and `ickd_loss` on the maps of the last stages, the student's projected to the teacher's width."""

    config = CN({"LOSS": weights(1.0, 2.5)})
    limits = WEIGHT_LIMITS

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, feat_weight: float,
        image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        s, t = (feature_shapes(network, image_shape).feats[-1][0] for network in (student, self.teacher_network))
        self.projector = nn.Sequential(nn.Conv2d(s, t, 1, bias=False), nn.BatchNorm2d(t))

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return ickd_loss(self.projector(student.features["feats"][-1]), teacher.features["feats"][-1])
